// Keys that work everywhere, and the page that lists them.

import { $, h } from './dom.js';

const KEYS = [
  ['/', 'go to the search box'],
  ['↓ from the box', 'go to the results'],
  ['← ↑ → ↓', 'walk through results, map or side view'],
  ['Enter', 'open the picture'],
  ['L', 'more like this picture'],
  ['Esc', 'close, or clear the search'],
  ['M', 'map and back'],
  ['+  −  0', 'in the map: nearer, farther, everything'],
  ['F', 'filters'],
  ['?', 'this list'],
];

const HINTS = [
  'Whole sentences work as well as words, in any language the model reads.',
  'Drop, paste or choose a picture to search with it; add words to bend the search. Drag a result into the page to look for its like.',
  'The + of a picture in the box turns into −: away from it. In words, “red car - truck” takes the truck out (with spaces around the minus).',
  'Scores compare within one search only. The grey band of a bar is where unrelated pictures lie: mean ± one deviation over the whole collection.',
];

export function keyboard({ grid, atlas, like, step, state, toggleMap, close }) {
  const dialog = $('keys');
  function help() {
    dialog.replaceChildren(
      h('form', { method: 'dialog' }, h('button', { class: 'icon', 'aria-label': 'Close' }, '×')),
      h('h2', {}, 'Keys'), h('dl', {}, ...KEYS.map(([key, what]) => [h('dt', {}, h('kbd', {}, key)), h('dd', {}, what)]).flat()),
      h('h2', {}, 'Hints'), h('ul', {}, ...HINTS.map(hint => h('li', {}, hint))));
    dialog.showModal();
  }
  $('help').onclick = help;
  dialog.addEventListener('click', event => { if (event.target === dialog) dialog.close() });

  $('query').addEventListener('keydown', event => {
    if (event.key === 'ArrowDown' && !event.isComposing) {
      if (state().view === 'map' ? atlas.focus() : grid.focus()) event.preventDefault();
    }
  });

  addEventListener('keydown', event => {
    if (event.defaultPrevented || event.altKey || event.ctrlKey || event.metaKey || event.isComposing) return;
    const writing = event.target.closest('input, textarea');
    const modal = document.querySelector('dialog:modal');
    if (event.key === 'Escape' && !(modal && modal.id !== 'side')) {
      if (state().item) { event.preventDefault(); close() }
      else if (!writing && document.activeElement !== document.body) $('query').focus();
      return;
    }
    if (writing || (modal && modal.id !== 'side')) return;
    const open = state().item;
    const run = {
      '/': () => { if (open) close(); $('query').focus(); $('query').select() },
      '?': help,
      m: toggleMap,
      f: () => $('filter').click(),
      l: () => { const key = open || grid.focused() || atlas.focused(); if (key) like(key); else return false },
      ArrowLeft: () => open ? step(-1) : false,
      ArrowRight: () => open ? step(1) : false,
      ArrowDown: () => open || document.activeElement !== document.body ? false : state().view === 'map' ? atlas.focus() : grid.focus(),
    }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (run && run() !== false) event.preventDefault();
  });
}
