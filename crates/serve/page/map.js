// The collection as a map: similar pictures lie near each other. One canvas; thumbnails where there is room, dots elsewhere.

import { Refused, ask, show } from './api.js';
import { base, calm, count, h, icon, score } from './dom.js';

/** Pixels around everything, below it for the line of text, and how near one may go. */
const MARGIN = 50, FOOT = 30, NEAREST = 400;

export class Atlas {
  /** `open` is called with the key of a picture. */
  constructor(root, open) {
    Object.assign(this, { root, open, pictures: new Map(), pointers: new Map() });
    this.canvas = h('canvas', { tabindex: 0, role: 'application', 'aria-label': 'Map of the collection. Arrow keys walk from picture to picture, plus and minus change how near it is, 0 shows everything, Enter opens.' });
    this.pen = this.canvas.getContext('2d');
    this.label = h('div', { class: 'label', role: 'status' });
    this.hint = h('p', { class: 'soft' });
    root.append(this.canvas, this.label, h('div', { class: 'zoom' },
      icon('+', 'Nearer (+)', () => this.near(1.6)), icon('−', 'Farther (−)', () => this.near(1 / 1.6)), icon('⤢', 'Everything (0)', () => this.fit(true))), this.hint);
    new ResizeObserver(() => this.size()).observe(root);
    matchMedia('(prefers-color-scheme: dark)').onchange = () => this.draw();
    this.listen();
  }

  /** Asks for the places of all pictures, once. */
  async load() {
    this.size();
    if (this.points) return;
    this.points = [];
    this.hint.textContent = 'The map is being drawn …';
    try {
      const { points, explained } = await ask('v1/map');
      this.points = points;
      const held = explained ? `; the two directions hold ${Math.round((explained[0] + explained[1]) * 100)} % of all differences` : '';
      this.hint.textContent = points.length ? `${count(points.length, 'picture')}. Near means alike${held}.` : 'There is nothing to draw yet.';
      this.fit();
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      this.points = null;
      this.hint.textContent = error.message;
    }
  }

  /** Highlights the hits of a search that stand out; null for none. */
  mark(hits, stats) {
    const high = stats?.deviation > 0 ? stats.mean + stats.deviation : -Infinity;
    this.hits = hits && new Map(hits.filter(hit => hit.score > high).slice(0, 24).map((hit, rank) => [hit.key, { rank, score: hit.score }]));
    this.draw();
  }

  size() {
    const { clientWidth: width, clientHeight: height } = this.root;
    if (!width || (width === this.width && height === this.height)) return;
    const dense = Math.min(devicePixelRatio, 2);
    Object.assign(this, { width, height, dense, side: width < 500 ? 44 : 64 });
    this.canvas.width = width * dense;
    this.canvas.height = height * dense;
    if (this.at === this.whole) this.fit(); else this.draw();
  }

  /** The view that shows all points. Each direction is stretched to the screen: what counts is who lies beside whom. */
  fit(smooth) {
    if (!this.points?.length || !this.width) return;
    const ends = axis => this.points.reduce(([low, high], point) => [Math.min(low, point[axis]), Math.max(high, point[axis])], [Infinity, -Infinity]);
    const [[left, right], [top, bottom]] = [ends('x'), ends('y')];
    // On a narrow screen the text below takes two lines.
    const margin = Math.min(MARGIN, this.width / 8), foot = this.width < 500 ? 2 * FOOT : FOOT;
    this.spread = { x: (this.width - 2 * margin) / (right - left || 1), y: (this.height - 2 * margin - foot) / (bottom - top || 1) };
    this.whole = { x: (left + right) / 2 * this.spread.x, y: (top + bottom) / 2 * this.spread.y + foot / 2, scale: 1 };
    this.go(this.whole, smooth);
  }

  /** Moves the view to a middle and a scale, smoothly unless motion is unwelcome. */
  go(to, smooth) {
    cancelAnimationFrame(this.moving);
    const from = this.at, begin = performance.now();
    if (!smooth || calm.matches || !from) { this.at = to; return this.draw() }
    const frame = now => {
      const t = Math.min(1, Math.max(0, (now - begin) / 220)), s = 1 - (1 - t) ** 3;
      this.at = t === 1 ? to : { x: from.x + (to.x - from.x) * s, y: from.y + (to.y - from.y) * s, scale: from.scale * (to.scale / from.scale) ** s };
      this.paint();
      if (t < 1) this.moving = requestAnimationFrame(frame);
    };
    this.moving = requestAnimationFrame(frame);
  }

  /** Changes the scale so that what lies at (x, y) of the canvas stays there. */
  zoom(by, [x, y], smooth) {
    if (!this.at) return;
    const scale = Math.min(NEAREST, Math.max(.5, this.at.scale * by)), shift = 1 / this.at.scale - 1 / scale;
    this.go({ x: this.at.x + (x - this.width / 2) * shift, y: this.at.y + (y - this.height / 2) * shift, scale }, smooth);
  }

  /** Nearer to or farther from what is chosen. */
  near(by) {
    this.zoom(by, this.chosen ? this.place(this.chosen) : [this.width / 2, this.height / 2], true);
  }

  place({ x, y }) {
    const { at, spread } = this;
    return [(x * spread.x - at.x) * at.scale + this.width / 2, (y * spread.y - at.y) * at.scale + this.height / 2];
  }

  draw() {
    this.waiting ||= requestAnimationFrame(() => { this.waiting = 0; this.paint() });
  }

  paint() {
    if (!this.at || this.root.hidden) return;
    const { pen, side, hits, chosen } = this, style = getComputedStyle(this.root);
    const [paper, soft, accent] = ['--paper', '--soft', '--accent'].map(name => style.getPropertyValue(name));
    pen.setTransform(this.dense, 0, 0, this.dense, 0, 0);
    pen.clearRect(0, 0, this.width, this.height);
    // Hits first, then always the same order: what has a thumbnail keeps it when one goes nearer. One thumbnail a cell, dots for the rest.
    const rank = point => hits.get(point.key)?.rank ?? Infinity;
    const ranked = hits ? this.points.toSorted((a, b) => rank(a) - rank(b) || 0) : this.points;
    const taken = new Set();
    this.drawn = [];
    pen.fillStyle = soft;
    pen.globalAlpha = .45;
    for (const point of ranked) {
      const [x, y] = this.place(point);
      if (x < -side || y < -side || x > this.width + side || y > this.height + side) continue;
      const cell = `${Math.floor(x / side)},${Math.floor(y / side)}`;
      if (!taken.has(cell) || hits?.has(point.key) || point === chosen) this.drawn.push({ point, x, y });
      else { pen.beginPath(); pen.arc(x, y, 2.5, 0, 7); pen.fill() }
      taken.add(cell);
    }
    // The best hit is painted last, so that nothing covers it.
    for (const { point, x, y } of this.drawn.toReversed()) {
      const hit = hits?.get(point.key), size = side * (hit ? 1.15 : .86) * (point === chosen ? 1.25 : 1);
      pen.globalAlpha = hits && !hit && point !== chosen ? .35 : 1;
      this.tile(this.picture(point.key), x, y, size, paper);
      if (!hit && point !== chosen) continue;
      pen.lineWidth = point === chosen ? 4 : 1 + 3 / (1 + hit.rank / 6);
      pen.strokeStyle = point === chosen ? soft : accent;
      pen.stroke();
    }
    pen.globalAlpha = 1;
  }

  /** A square of the middle of a picture, with round corners; they are left as the pen's path. */
  tile(img, x, y, size, paper) {
    const { pen } = this, box = size => { pen.beginPath(); pen.roundRect(x - size / 2, y - size / 2, size, size, 6) };
    pen.fillStyle = paper;
    box(size + 3);
    pen.fill();
    box(size);
    const { naturalWidth: w, naturalHeight: h } = img, edge = Math.min(w, h);
    if (!edge) return;
    pen.save();
    pen.clip();
    pen.drawImage(img, (w - edge) / 2, (h - edge) / 2, edge, edge, x - size / 2, y - size / 2, size, size);
    pen.restore();
  }

  /** A thumbnail, asked for when it is first drawn; those not drawn for longest are forgotten. */
  picture(key) {
    let img = this.pictures.get(key);
    this.pictures.delete(key);
    if (!img) {
      img = new Image();
      img.onload = () => this.draw();
      show(img, key, { lazy: false });
    }
    this.pictures.set(key, img);
    if (this.pictures.size > 1500) this.pictures.delete(this.pictures.keys().next().value);
    return img;
  }

  /** The picture under a place of the canvas. */
  under([x, y]) {
    return this.drawn?.find(one => Math.max(Math.abs(one.x - x), Math.abs(one.y - y)) < this.side / 2)?.point;
  }

  choose(point) {
    if (point === this.chosen) return;
    this.chosen = point;
    const hit = this.hits?.get(point?.key);
    this.label.textContent = point ? base(point.key) + (hit ? ` · ${score(hit.score)}` : '') : '';
    this.draw();
  }

  focus() { this.canvas.focus(); return true }

  focused() { return document.activeElement === this.canvas ? this.chosen?.key : undefined }

  /** Goes to the nearest picture in a direction, and takes the view along when it leaves the middle. */
  walk(dx, dy) {
    if (!this.at) return;
    const [x, y] = this.chosen ? this.place(this.chosen) : [this.width / 2, this.height / 2];
    let best, least = Infinity;
    for (const point of this.points) {
      const [px, py] = this.place(point);
      const along = (px - x) * dx + (py - y) * dy, across = Math.abs((px - x) * dy) + Math.abs((py - y) * dx);
      if (point !== this.chosen && along > 1 && across <= 2 * along && along + 2 * across < least) [best, least] = [point, along + 2 * across];
    }
    if (!best) return;
    this.choose(best);
    const off = this.place(best).map((place, axis) => Math.abs(place / [this.width, this.height][axis] - .5));
    if (Math.max(...off) > .35) this.go({ x: best.x * this.spread.x, y: best.y * this.spread.y, scale: this.at.scale }, true);
  }

  listen() {
    const { canvas, pointers } = this;
    const spot = event => [event.offsetX, event.offsetY];
    canvas.addEventListener('wheel', event => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? .05 : .0016)), spot(event));
    }, { passive: false });
    canvas.onpointerdown = event => {
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, spot(event));
      this.far = pointers.size > 1 ? Infinity : 0;
    };
    canvas.onpointermove = event => {
      const to = spot(event), from = pointers.get(event.pointerId);
      if (!from) return this.choose(this.under(to));
      if (!this.at) return;
      pointers.set(event.pointerId, to);
      const distance = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
      const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
      if (other && distance(from, other) > 5) this.zoom(distance(to, other) / distance(from, other), [(to[0] + other[0]) / 2, (to[1] + other[1]) / 2]);
      const share = (other ? .5 : 1) / this.at.scale;
      this.go({ ...this.at, x: this.at.x - (to[0] - from[0]) * share, y: this.at.y - (to[1] - from[1]) * share });
      this.far += distance(to, from);
    };
    canvas.onpointerup = canvas.onpointercancel = event => {
      const point = pointers.delete(event.pointerId) && event.type === 'pointerup' && this.far < 6 && this.under(spot(event));
      if (point) { this.choose(point); this.open(point.key) }
    };
    canvas.onkeydown = event => {
      const run = !event.altKey && !event.ctrlKey && !event.metaKey && {
        ArrowLeft: () => this.walk(-1, 0), ArrowRight: () => this.walk(1, 0), ArrowUp: () => this.walk(0, -1), ArrowDown: () => this.walk(0, 1),
        '+': () => this.near(1.6), '=': () => this.near(1.6), '-': () => this.near(1 / 1.6), 0: () => this.fit(true),
        Enter: () => this.chosen && this.open(this.chosen.key),
      }[event.key];
      if (!run) return;
      event.preventDefault();
      run();
    };
  }
}
