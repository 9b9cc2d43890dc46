// Results as justified rows: every picture keeps its shape, every row but the last fills the width.

import { show } from './api.js';
import { above, h, later, meter, score } from './dom.js';

/** Pixels between tiles, below each picture for its name, and more for its score's bar. */
const GAP = 8, CAPTION = 32, BAR = 9;

export class Grid {
  /** `open`, `like` and `href` take a key; `more` is called when the end comes near. */
  constructor(root, calls) {
    Object.assign(this, { root, ...calls, items: [], tiles: [], shapes: new Map(), active: 0 });
    this.rows = h('div', { role: 'grid', 'aria-label': 'Results', 'aria-readonly': 'true' });
    this.end = h('div', { class: 'end' });
    root.append(this.rows, this.end);
    this.reshape = later(80, () => this.layout());
    new ResizeObserver(() => { if (root.clientWidth !== this.width) this.reshape() }).observe(root);
    new IntersectionObserver(([end]) => { this.atEnd = end.isIntersecting; this.wantMore() }, { rootMargin: '900px' }).observe(this.end);
    this.rows.addEventListener('click', event => this.click(event));
    this.rows.addEventListener('focusin', event => {
      const i = this.tiles.findIndex(tile => tile.contains(event.target));
      if (i >= 0) this.rove(i);
    });
    this.rows.addEventListener('keydown', event => this.key(event));
  }

  set(items, stats) {
    // Pictures that stay are not loaded again, which would flicker while one types.
    this.frames = new Map(this.items.map((item, i) => [item.key, this.tiles[i].querySelector('.frame')]));
    Object.assign(this, { items: [], tiles: [], stats, active: 0 });
    this.top = items[0]?.score ?? 0;
    this.rows.replaceChildren();
    this.add(items);
    this.frames.clear();
  }

  add(items) {
    const from = this.items.length;
    this.items.push(...items);
    this.tiles.push(...items.map((item, i) => this.tile(item, from + i)));
    this.layout(from);
    // The end may still be in sight, and then nothing would tell so again.
    requestAnimationFrame(() => this.wantMore());
  }

  wantMore() {
    if (this.atEnd && this.items.length && !this.root.hidden) this.request();
  }

  async request() {
    if (this.asking) return;
    this.asking = true;
    await this.more();
    this.asking = false;
  }

  tile(item, i) {
    const scored = item.score !== undefined;
    const words = scored ? `, score ${score(item.score)}, ${above(item.score, this.stats)}` : '';
    const link = h('a', { href: this.href(item.key), tabindex: i ? -1 : 0, 'aria-label': item.name + words, title: item.name, 'data-key': item.key },
      this.frames?.get(item.key) ?? this.frame(item), scored ? meter(item.score, this.stats, this.top) : null,
      h('span', { class: 'line' }, scored ? h('b', {}, score(item.score)) : null, h('span', {}, item.name)));
    return h('div', { role: 'gridcell', class: 'tile' }, link,
      h('button', { type: 'button', class: 'like', tabindex: -1, title: 'More like this (L)', 'aria-label': `More like ${item.name}` }, '≈'));
  }

  frame(item) {
    const img = h('img', { alt: '', draggable: 'false' });
    img.onerror = () => img.replaceWith(h('span', { class: 'blank' }, 'no preview'));
    img.onload = () => this.measured(item, img);
    show(img, item.key);
    return h('span', { class: 'frame' }, img);
  }

  /** Width over height: from the store, or from the thumbnail once it is there. */
  shape(item) {
    const known = item.width > 0 && item.height > 0 ? item.width / item.height : this.shapes.get(item.key) ?? 4 / 3;
    return Math.min(2.6, Math.max(.55, known));
  }

  measured(item, img) {
    const before = this.shape(item);
    this.shapes.set(item.key, img.naturalWidth / img.naturalHeight);
    if (Math.abs(this.shape(item) - before) > .02) this.reshape();
  }

  /** Lays out all rows, or only those from the one that was the last before item `from`. */
  layout(from = 0) {
    const width = this.width = this.root.clientWidth;
    if (!width) return;
    const height = width < 500 ? 120 : width < 1000 ? 160 : 190;
    let start = 0;
    if (from && this.rows.lastElementChild) {
      start = Number(this.rows.lastElementChild.dataset.start ?? from);
      if (this.rows.lastElementChild.dataset.start) this.rows.lastElementChild.remove();
    } else {
      this.steady();
      this.rows.replaceChildren();
    }
    let row = [], sum = 0;
    const close = full => {
      if (!row.length) return;
      const fitting = (width - GAP * (row.length - 1)) / sum;
      this.row(row, full ? fitting : Math.min(fitting, height));
      row = [];
      sum = 0;
    };
    for (let i = start; i < this.items.length; i++) {
      if (i && this.usual(i) && !this.usual(i - 1)) {
        close(false);
        this.rows.append(h('div', { role: 'row', class: 'rest' }, h('span', { role: 'gridcell' }, 'From here on, scores are what is usual for unrelated pictures')));
      }
      row.push(i);
      sum += this.shape(this.items[i]);
      if (sum * height + GAP * (row.length - 1) >= width) close(true);
    }
    close(false);
  }

  /** Keeps focus and place over a new layout: what was open, or at the top of the screen, stays where it is. */
  steady() {
    const focused = this.rows.contains(document.activeElement) ? document.activeElement : null;
    // Asked of rows: the tiles of rows out of sight have no layout, and asking would make one.
    const tile = this.rows.querySelector('.current') ??
      (scrollY > 200 && [...this.rows.querySelectorAll('.row')].find(row => row.getBoundingClientRect().bottom > 120)?.firstChild);
    const top = tile ? tile.getBoundingClientRect().top : 0;
    queueMicrotask(() => {
      focused?.focus({ preventScroll: true });
      if (tile?.isConnected) scrollBy(0, tile.getBoundingClientRect().top - top);
    });
  }

  /** Whether a hit scores no better than one deviation above the mean of the whole collection. */
  usual(i) {
    return this.stats?.deviation > 0 && this.items[i].score <= this.stats.mean + this.stats.deviation;
  }

  row(indices, height) {
    const row = h('div', { role: 'row', class: 'row', 'data-start': indices[0] });
    for (const i of indices) {
      const tile = this.tiles[i];
      tile.style.width = `${Math.floor(this.shape(this.items[i]) * height * 64) / 64}px`;
      tile.firstChild.firstChild.style.height = `${height}px`;
      row.append(tile);
    }
    row.style.height = `${height + CAPTION + (this.stats ? BAR : 0)}px`;
    this.rows.append(row);
  }

  click(event) {
    const tile = event.target.closest('.tile');
    if (!tile) return;
    const { key } = tile.firstChild.dataset;
    if (event.target.closest('.like')) return this.like(key);
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.button) return;
    event.preventDefault();
    this.open(key);
  }

  rove(i) {
    this.tiles[this.active]?.firstChild.setAttribute('tabindex', -1);
    this.tiles[i]?.firstChild.setAttribute('tabindex', 0);
    this.active = i;
  }

  place(key) {
    return this.items.findIndex(item => item.key === key);
  }

  focus(i = this.active) {
    if (!this.tiles[i]) return false;
    this.rove(i);
    this.tiles[i].firstChild.focus();
    this.tiles[i].scrollIntoView({ block: 'nearest' });
    return true;
  }

  /** The key under the keyboard, if the grid has the focus. */
  focused() {
    return this.rows.contains(document.activeElement) ? this.items[this.active]?.key : undefined;
  }

  /** Marks the item that the side view shows. */
  current(key) {
    for (const tile of this.rows.querySelectorAll('.tile.current')) tile.classList.remove('current');
    const i = this.place(key);
    if (i < 0) return;
    this.rove(i);
    this.tiles[i].classList.add('current');
    this.tiles[i].scrollIntoView({ block: 'nearest' });
  }

  beside(key, by) {
    const i = this.place(key);
    if (i < 0) return null;
    if (i + by >= this.items.length - 3) this.request();
    return this.items[i + by]?.key ?? null;
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const own = [...this.tiles[this.active].parentElement.children];
    const last = this.items.length - 1;
    const to = {
      ArrowRight: () => Math.min(last, this.active + 1),
      ArrowLeft: () => Math.max(0, this.active - 1),
      ArrowDown: () => this.vertical('nextElementSibling') ?? last,
      ArrowUp: () => this.vertical('previousElementSibling'),
      Home: () => this.tiles.indexOf(own[0]),
      End: () => this.tiles.indexOf(own.at(-1)),
    }[event.key];
    if (!to) return;
    event.preventDefault();
    const i = to();
    if (i === null) document.getElementById('query').focus(); else this.focus(i);
  }

  /** The tile of the next or previous row that lies nearest to the middle of this one. */
  vertical(side) {
    const tile = this.tiles[this.active];
    let row = tile.parentElement[side];
    if (row && !row.dataset.start) row = row[side];
    if (!row) return null;
    const middle = element => element.offsetLeft + element.offsetWidth / 2;
    const nearest = [...row.children].reduce((a, b) => Math.abs(middle(b) - middle(tile)) < Math.abs(middle(a) - middle(tile)) ? b : a);
    return this.tiles.indexOf(nearest);
  }
}
