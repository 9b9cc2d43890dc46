// Small helpers. Whatever comes from outside goes in as text, never as markup.

export const $ = id => document.getElementById(id);

/** An element; `on…` listens, `class` and others are attributes, null and false are left out. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.flat().filter(child => child !== null && child !== undefined));
  return element;
}

/** A round button with a sign; its words are for those who point at it and those who do not see it. */
export const icon = (sign, words, onclick) => h('button', { type: 'button', class: 'icon', title: words, 'aria-label': words, onclick }, sign);

export const count = (n, one, many = one + 's') => `${n.toLocaleString('en')} ${n === 1 ? one : many}`;

export const score = x => x.toFixed(3).replace('-', '−');

/** The last part of a path. */
export const base = key => key.split(/[/\\]/).filter(Boolean).pop() ?? key;

export function bytes(n) {
  const units = ['bytes', 'kB', 'MB', 'GB'];
  let unit = 0;
  while (n >= 1000 && unit < 3) { n /= 1000; unit++ }
  return `${n.toLocaleString('en', { maximumSignificantDigits: 3 })} ${units[unit]}`;
}

/** Calls `run` once, `ms` after the last call; `.cancel()` forgets it. */
export function later(ms, run) {
  let timer;
  const call = (...args) => { clearTimeout(timer); timer = setTimeout(() => run(...args), ms) };
  call.cancel = () => clearTimeout(timer);
  return call;
}

/** Whether the page is so narrow that the side view covers it. */
export const narrow = matchMedia('(max-width: 800px)');
export const calm = matchMedia('(prefers-reduced-motion: reduce)');

/**
 * How a score compares with what this query's scores are like over the whole collection, as a bar: the band is mean ± one deviation,
 * where unrelated pictures lie. `stats` may be missing: then there is nothing to compare with.
 */
export function meter(value, stats, top) {
  if (!stats || !(stats.deviation > 0)) return null;
  const low = stats.mean - 2 * stats.deviation;
  const high = Math.max(top, stats.mean + 4 * stats.deviation);
  const at = x => Math.min(1, Math.max(0, (x - low) / (high - low)));
  const bar = h('span', { class: 'meter', 'aria-hidden': 'true' }, h('i'), h('b'));
  const [band, fill] = bar.children;
  place(band, at(stats.mean - stats.deviation), at(stats.mean + stats.deviation));
  place(fill, Math.min(at(stats.mean), at(value)), Math.max(at(stats.mean), at(value)));
  return bar;
}

function place(element, from, to) {
  element.style.left = `${from * 100}%`;
  element.style.width = `${(to - from) * 100}%`;
}

/** "4.2 deviations above …" in a few words; empty without statistics. */
export function above(value, stats) {
  if (!stats || !(stats.deviation > 0)) return '';
  const z = (value - stats.mean) / stats.deviation;
  return z > 1 ? `${z.toFixed(1)} deviations above what is usual here` : 'what is usual for unrelated pictures';
}
