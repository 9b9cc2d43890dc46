// The collection as a map: similar pictures lie near each other. One canvas; thumbnails where there is room, dots elsewhere.

import { Refused, ask, show } from './api.js';
import { base, calm, count, h, score } from './dom.js';

/** Pixels around everything, below it for the line of text, and how near one may go. */
const MARGIN = 50, FOOT = 30, NEAREST = 400;

export class Atlas {
  constructor(root, calls) {
    Object.assign(this, { root, ...calls, points: null, hits: null, at: null, pictures: new Map(), pointers: new Map() });
    this.canvas = h('canvas', { tabindex: 0, role: 'application', 'aria-roledescription': 'map', 'aria-label': 'Map of the collection. Arrow keys walk from picture to picture, plus and minus change how near it is, 0 shows everything, Enter opens.' });
    this.label = h('div', { class: 'label', role: 'status' });
    this.hint = h('p', { class: 'soft' });
    const button = (sign, words, run) => h('button', { type: 'button', class: 'icon', title: words, 'aria-label': words, onclick: run }, sign);
    root.append(this.canvas, this.label, h('div', { class: 'zoom' },
      button('+', 'Nearer (+)', () => this.zoom(1.6)), button('−', 'Farther (−)', () => this.zoom(1 / 1.6)), button('⤢', 'Everything (0)', () => this.fit(true))), this.hint);
    new ResizeObserver(() => this.size()).observe(root);
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.draw());
    this.listen();
  }

  async open() {
    this.size();
    if (this.points || this.loading) return;
    this.loading = true;
    this.hint.textContent = 'The map is being drawn …';
    try {
      const { points, explained } = await ask('v1/map');
      this.points = points.filter(point => Number.isFinite(point.x) && Number.isFinite(point.y));
      this.byKey = new Map(this.points.map(point => [point.key, point]));
      this.hint.textContent = this.points.length ? `${count(this.points.length, 'picture')}. Near means alike` +
        (explained ? `; the two directions hold ${Math.round((explained[0] + explained[1]) * 100)} % of all differences.` : '.') : 'There is nothing to draw yet.';
      this.fit();
    } catch (error) {
      this.hint.textContent = error instanceof Refused ? error.message : 'The map cannot be drawn.';
    }
    this.loading = false;
  }

  /** Highlights the hits of a search that stand out; null for none. */
  mark(hits, stats) {
    const high = stats?.deviation > 0 ? stats.mean + stats.deviation : -Infinity;
    this.hits = hits && new Map(hits.filter(hit => hit.score > high).slice(0, 24).map((hit, rank) => [hit.key, { rank, score: hit.score }]));
    this.draw();
  }

  size() {
    const { clientWidth: width, clientHeight: height } = this.root;
    if (!width || (width === this.w && height === this.h)) return;
    const dense = Math.min(devicePixelRatio || 1, 2);
    Object.assign(this, { w: width, h: height, dense });
    this.canvas.width = width * dense;
    this.canvas.height = height * dense;
    if (this.points) this.fit();
  }

  /** The view that shows all points. */
  fit(smooth = false) {
    if (!this.points?.length || !this.w) return this.draw();
    let [left, right, top, bottom] = [Infinity, -Infinity, Infinity, -Infinity];
    for (const { x, y } of this.points) {
      left = Math.min(left, x); right = Math.max(right, x);
      top = Math.min(top, y); bottom = Math.max(bottom, y);
    }
    const margin = Math.min(MARGIN, this.w / 8);
    // Each direction is stretched to the screen: what counts is who lies beside whom.
    const spread = { x: (this.w - 2 * margin) / (right - left || 1), y: (this.h - 2 * margin - FOOT) / (bottom - top || 1) };
    this.spread = spread;
    this.home = { x: (left + right) / 2 * spread.x, y: (top + bottom) / 2 * spread.y + FOOT / 2, scale: 1 };
    this.go(this.home, smooth);
  }

  /** Moves the view, smoothly unless motion is unwelcome. */
  go(to, smooth) {
    cancelAnimationFrame(this.moving);
    if (!smooth || calm.matches || !this.at) { this.at = { ...to }; return this.draw() }
    const from = this.at, begin = performance.now();
    const frame = now => {
      const t = Math.min(1, Math.max(0, (now - begin) / 220)), s = 1 - (1 - t) ** 3;
      const scale = from.scale * (to.scale / from.scale) ** s;
      this.at = { x: from.x + (to.x - from.x) * s, y: from.y + (to.y - from.y) * s, scale };
      this.paint();
      if (t < 1) this.moving = requestAnimationFrame(frame);
    };
    this.moving = requestAnimationFrame(frame);
  }

  /** Changes the scale so that what lies at (x, y) of the canvas stays there. */
  zoom(by, x = this.w / 2, y = this.h / 2, smooth = true) {
    if (!this.at) return;
    const scale = Math.min(NEAREST, Math.max(.5, this.at.scale * by));
    const shift = 1 / this.at.scale - 1 / scale;
    this.go({ x: this.at.x + (x - this.w / 2) * shift, y: this.at.y + (y - this.h / 2) * shift, scale }, smooth);
  }

  place(point) {
    return [(point.x * this.spread.x - this.at.x) * this.at.scale + this.w / 2, (point.y * this.spread.y - this.at.y) * this.at.scale + this.h / 2];
  }

  draw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => { this.waiting = 0; this.paint() });
  }

  paint() {
    if (!this.points || !this.at || this.root.hidden) return;
    const pen = this.canvas.getContext('2d'), style = getComputedStyle(this.root);
    const [paper, soft, accent] = ['--paper', '--soft', '--accent'].map(name => style.getPropertyValue(name));
    pen.setTransform(this.dense, 0, 0, this.dense, 0, 0);
    pen.clearRect(0, 0, this.w, this.h);
    const side = this.w < 500 ? 44 : 64;
    const taken = new Set();
    this.drawn = [];
    const dots = [];
    // Hits first, then in the order of the list, which stays the same: what has a thumbnail keeps it when one goes nearer.
    const ranked = this.hits ? [...this.points].sort((a, b) => this.rank(a) - this.rank(b)) : this.points;
    for (const point of ranked) {
      const [x, y] = this.place(point);
      if (x < -side || y < -side || x > this.w + side || y > this.h + side) continue;
      const cell = `${Math.floor(x / side)},${Math.floor(y / side)}`;
      if (taken.has(cell) && !this.hits?.has(point.key) && point !== this.chosen) dots.push([x, y]);
      else { taken.add(cell); this.drawn.push({ point, x, y }) }
    }
    pen.fillStyle = soft;
    pen.globalAlpha = .45;
    for (const [x, y] of dots) { pen.beginPath(); pen.arc(x, y, 2.5, 0, 7); pen.fill() }
    // The best hit is painted last, so that nothing covers it.
    for (const { point, x, y } of this.drawn.toReversed()) {
      const hit = this.hits?.get(point.key), chosen = point === this.chosen;
      const size = side * (hit ? 1.15 : .86) * (chosen ? 1.25 : 1);
      pen.globalAlpha = this.hits && !hit && !chosen ? .22 : 1;
      this.tile(pen, point, x, y, size, paper);
      if (hit || chosen) {
        pen.lineWidth = chosen ? 4 : 1 + 3 / (1 + hit.rank / 6);
        pen.strokeStyle = chosen ? soft : accent;
        box(pen, x, y, size);
        pen.stroke();
      }
    }
    pen.globalAlpha = 1;
  }

  rank(point) {
    return this.hits.get(point.key)?.rank ?? Infinity;
  }

  tile(pen, point, x, y, size, paper) {
    const img = this.picture(point.key);
    pen.fillStyle = paper;
    box(pen, x, y, size + 3);
    pen.fill();
    if (!img.complete || !img.naturalWidth) return;
    const edge = Math.min(img.naturalWidth, img.naturalHeight);
    pen.save();
    box(pen, x, y, size);
    pen.clip();
    pen.drawImage(img, (img.naturalWidth - edge) / 2, (img.naturalHeight - edge) / 2, edge, edge, x - size / 2, y - size / 2, size, size);
    pen.restore();
  }

  /** A thumbnail, asked for when it is first drawn; those not drawn for longest are forgotten. */
  picture(key) {
    let img = this.pictures.get(key);
    if (img) this.pictures.delete(key);
    else {
      img = new Image();
      img.addEventListener('load', () => this.draw());
      show(img, key, { lazy: false });
    }
    this.pictures.set(key, img);
    if (this.pictures.size > 1500) this.pictures.delete(this.pictures.keys().next().value);
    return img;
  }

  /** The drawn picture under a place of the canvas. */
  under(x, y) {
    const side = this.w < 500 ? 44 : 64;
    return this.drawn?.find(one => Math.abs(one.x - x) < side / 2 && Math.abs(one.y - y) < side / 2)?.point ?? null;
  }

  choose(point) {
    if (point === this.chosen) return;
    this.chosen = point;
    const hit = point && this.hits?.get(point.key);
    this.label.textContent = point ? base(point.key) + (hit ? ` · ${score(hit.score)}` : '') : '';
    this.draw();
  }

  focus() { this.canvas.focus(); return true }

  focused() { return document.activeElement === this.canvas ? this.chosen?.key : undefined }

  /** Goes to the nearest picture in a direction, and takes the view along when it leaves the middle. */
  walk(dx, dy) {
    if (!this.drawn?.length) return;
    const [x, y] = this.chosen ? this.place(this.chosen) : [this.w / 2, this.h / 2];
    let best = null, least = Infinity;
    for (const point of this.points) {
      if (point === this.chosen) continue;
      const [px, py] = this.place(point);
      const along = (px - x) * dx + (py - y) * dy, across = Math.abs((px - x) * dy) + Math.abs((py - y) * dx);
      const cost = along + 2 * across;
      if ((along > 1 || !this.chosen) && cost < least && across <= 2 * Math.abs(along) + 1) [best, least] = [point, cost];
    }
    if (!best) return;
    this.choose(best);
    const [px, py] = this.place(best);
    const inside = px > this.w * .15 && px < this.w * .85 && py > this.h * .15 && py < this.h * .85;
    if (!inside) this.go({ x: best.x * this.spread.x, y: best.y * this.spread.y, scale: this.at.scale }, true);
  }

  listen() {
    const { canvas, pointers } = this;
    const spot = event => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top] };
    canvas.addEventListener('wheel', event => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? .05 : .0016)), ...spot(event), false);
    }, { passive: false });
    canvas.addEventListener('pointerdown', event => {
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, spot(event));
      this.far = pointers.size > 1 ? Infinity : 0;
    });
    canvas.addEventListener('pointermove', event => {
      const to = spot(event), from = pointers.get(event.pointerId);
      if (!from) return this.choose(this.under(...to));
      if (!this.at) return;
      const others = [...pointers].filter(([id]) => id !== event.pointerId);
      if (others.length) {
        const [ox, oy] = others[0][1];
        const before = Math.hypot(from[0] - ox, from[1] - oy), after = Math.hypot(to[0] - ox, to[1] - oy);
        if (before > 5) this.zoom(after / before, (to[0] + ox) / 2, (to[1] + oy) / 2, false);
      }
      const share = 1 / (others.length + 1);
      this.go({ x: this.at.x - (to[0] - from[0]) * share / this.at.scale, y: this.at.y - (to[1] - from[1]) * share / this.at.scale, scale: this.at.scale });
      this.far += Math.hypot(to[0] - from[0], to[1] - from[1]);
      pointers.set(event.pointerId, to);
    });
    const up = event => {
      if (!pointers.delete(event.pointerId) || event.type === 'pointercancel') return;
      const point = this.far < 6 && this.under(...spot(event));
      if (point) { this.choose(point); this.show(point.key) }
    };
    canvas.addEventListener('pointerup', up);
    canvas.addEventListener('pointercancel', up);
    canvas.addEventListener('keydown', event => {
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      const run = {
        ArrowLeft: () => this.walk(-1, 0), ArrowRight: () => this.walk(1, 0), ArrowUp: () => this.walk(0, -1), ArrowDown: () => this.walk(0, 1),
        '+': () => this.near(1.6), '=': () => this.near(1.6), '-': () => this.near(1 / 1.6), 0: () => this.fit(true),
        Enter: () => this.chosen && this.show(this.chosen.key),
      }[event.key];
      if (!run) return;
      event.preventDefault();
      run();
    });
  }

  /** Nearer to or farther from what is chosen. */
  near(by) {
    this.zoom(by, ...this.chosen ? this.place(this.chosen) : []);
  }
}

function box(pen, x, y, size) {
  pen.beginPath();
  pen.roundRect(x - size / 2, y - size / 2, size, size, 6);
}
