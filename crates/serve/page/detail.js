// The side view of one picture: large, with what is known of it, and how well your own words fit it.

import { Refused, address, ask, show } from './api.js';
import { above, base, bytes, h, icon, later, meter, narrow, score } from './dom.js';
import { quoted } from './filters.js';
import { talk } from './talk.js';

const LINES = 12;

export class Detail {
  /** `close`, `like` and `step` are called when the user asks for them. */
  constructor(root, calls) {
    Object.assign(this, { root, calls, words: [], edited: false });
    this.title = h('h2', { id: 'name' });
    this.content = h('div', { class: 'content' });
    const header = h('header', {}, this.title,
      icon('‹', 'Previous (←)', () => calls.step(-1)), icon('›', 'Next (→)', () => calls.step(1)), icon('×', 'Close (Esc)', () => calls.close()));
    header.lastChild.autofocus = true;
    root.append(header, this.content);
    root.addEventListener('cancel', event => { event.preventDefault(); calls.close() });
    narrow.addEventListener('change', () => { if (root.open) { root.close(); this.raise() } });
    this.compare = later(200, () => this.measure());
  }

  raise() {
    if (this.root.open) return;
    if (narrow.matches) this.root.showModal(); else this.root.show();
    document.body.classList.add('beside');
  }

  close() {
    this.key = null;
    this.running?.abort();
    this.root.close();
    document.body.classList.remove('beside');
  }

  open(item, stats, query) {
    if (item.key === this.key) return;
    this.running?.abort();
    this.running = new AbortController();
    this.key = item.key;
    this.high = stats ? stats.mean + 4 * stats.deviation : .3;
    if (!this.edited && query) this.words = [query];
    this.title.textContent = item.name ?? base(item.key);
    const facts = h('dl', { class: 'facts' });
    this.rows = h('div', { class: 'words' });
    const found = item.score === undefined ? null : h('p', { class: 'score' }, h('b', {}, score(item.score)), ' ', above(item.score, stats), meter(item.score, stats, item.score));
    this.content.replaceChildren(this.figure(item),
      h('div', { class: 'actions' },
        h('button', { type: 'button', class: 'primary', onclick: () => this.calls.like(item.key) }, 'More like this'),
        h('a', { class: 'button', href: address(item.key, 'picture'), target: '_blank', rel: 'noopener' }, 'Open the file')),
      ...found ? [found] : [],
      talk(item.key, this.running.signal),
      h('section', {}, h('h3', {}, 'Your own words'), h('p', { class: 'soft' }, 'How well each line fits this picture.'), this.rows),
      h('section', {}, h('h3', {}, 'What is known'), facts));
    this.line();
    this.measure();
    this.facts(facts, item);
    this.raise();
    this.content.scrollTo(0, 0);
  }

  /** The thumbnail at once, and the picture over it when it is there. */
  figure(item) {
    const small = h('img', { alt: '' }), large = h('img', { class: 'large', alt: item.name ?? '' });
    show(small, item.key, { lazy: false });
    show(large, item.key, { what: 'picture', lazy: false });
    large.addEventListener('load', () => { large.classList.add('here'); small.remove() });
    large.addEventListener('error', () => { large.remove(); small.alt = item.name ?? '' });
    small.addEventListener('error', () => small.remove());
    const figure = h('figure', {}, small, large);
    let from = null;
    const place = ({ clientX, clientY }) => [clientX, clientY];
    figure.addEventListener('touchstart', event => { from = event.touches.length === 1 ? place(event.touches[0]) : null }, { passive: true });
    figure.addEventListener('touchend', event => {
      const [across, along] = from ? place(event.changedTouches[0]).map((to, axis) => to - from[axis]) : [0, 0];
      // A finger that goes sideways, and neither scrolls nor zooms.
      if (Math.abs(across) > 60 && Math.abs(along) < 40 && visualViewport.scale === 1) this.calls.step(across < 0 ? 1 : -1);
    });
    return figure;
  }

  async facts(list, item) {
    list.replaceChildren(...rows(item));
    if (item.metadata) return;
    // Opened from the map or from a link: what is known must be asked for.
    const search = new URLSearchParams({ limit: 1, where: `path = ${quoted(item.key)}` });
    const page = await ask(`v1/items?${search}`, { signal: this.running.signal }).catch(() => null);
    const known = page?.results.find(result => result.key === item.key);
    if (known && this.key === item.key) list.replaceChildren(...rows(known));
  }

  /** Makes the input lines: one for each text, and an empty one to write the next into. */
  line() {
    const texts = [...this.words.filter(word => word.trim()), ''].slice(0, LINES);
    this.rows.replaceChildren(...texts.map(text => this.row(text)));
  }

  row(text) {
    const input = h('input', { type: 'text', maxlength: 2000, placeholder: 'a dog at the beach', 'aria-label': 'Words to compare with the picture' });
    input.value = text;
    input.addEventListener('input', () => {
      this.edited = true;
      const all = [...this.rows.children];
      if (input === all.at(-1).firstChild && input.value && all.length < LINES) this.rows.append(this.row(''));
      this.compare();
    });
    input.addEventListener('keydown', event => {
      const at = { Enter: 'nextElementSibling', ArrowDown: 'nextElementSibling', ArrowUp: 'previousElementSibling' }[event.key];
      if (at) { event.preventDefault(); input.parentElement[at]?.firstChild.focus() }
    });
    return h('label', {}, input, h('span', { class: 'bar', 'aria-hidden': 'true' }, h('i')), h('output'));
  }

  async measure() {
    const lines = [...this.rows.children].filter(line => line.firstChild.value.trim());
    for (const line of this.rows.children) if (!lines.includes(line)) draw(line, null, 1);
    const texts = this.words = lines.map(line => line.firstChild.value.trim());
    this.comparing?.abort();
    if (!texts.length) return;
    this.comparing = new AbortController();
    const signal = AbortSignal.any([this.comparing.signal, this.running.signal]);
    try {
      const { scores } = await ask('v1/similarity', { body: { texts, key: this.key }, signal });
      const top = Math.max(this.high, ...scores);
      lines.forEach((line, i) => draw(line, scores[i], top, scores[i] === Math.max(...scores)));
    } catch (error) {
      if (error instanceof Refused) this.rows.lastChild.lastChild.textContent = error.message;
      else if (!signal.aborted) throw error;
    }
  }
}

function draw(line, value, top, best = false) {
  const [, bar, output] = line.children;
  bar.firstChild.style.width = value === null ? '0' : `${Math.max(0, value / top) * 100}%`;
  output.textContent = value === null ? '' : score(value);
  line.classList.toggle('best', best);
}

/** Facts as terms and descriptions; objects as JSON. */
function rows({ key, size, modified, width, height, metadata = {} }) {
  const shown = { path: key };
  if (width && height) shown.pixels = `${width} × ${height}`;
  if (size) shown.size = bytes(size);
  if (modified) shown.modified = new Date(modified).toLocaleString();
  Object.assign(shown, metadata);
  if (shown.pixels) delete shown.width, delete shown.height;
  return Object.entries(shown).map(([name, value]) => [h('dt', {}, name), h('dd', {}, written(value))]).flat();
}

function written(value) {
  if (Array.isArray(value) && value.every(one => typeof one !== 'object')) return value.join('\n');
  return typeof value === 'object' ? JSON.stringify(value, null, 1) : String(value);
}
