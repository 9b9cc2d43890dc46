// The page's state lives in its address: every change goes through `go`, which writes the address and shows what changed.

import { Refused, ask } from './api.js';
import { $, base, count, h, score } from './dom.js';
import { Detail } from './detail.js';
import { Filters } from './filters.js';
import { Grid } from './grid.js';
import { keyboard } from './keyboard.js';
import { Atlas } from './map.js';
import { SearchBox, pictureOf } from './search.js';

const FILTERS = ['folder', 'ext', 'from', 'to', 'least', 'most', 'min', 'where'];
const TEXTS = ['q', ...FILTERS, 'view', 'item'];
/** Names in the address of what is searched for beside the text, and whether it counts for or against. */
const PARTS = { like: ['key', 1], unlike: ['key', -1], picture: ['picture', 1], unpicture: ['picture', -1] };
const FIRST = 60, MOST = 200;

let state = read();
let found = null; // {hits | results, stats, next, k}: what the grid shows
let running = null;

function read() {
  const search = new URLSearchParams(location.search);
  const parts = [];
  for (const [name, value] of search) {
    if (Object.hasOwn(PARTS, name)) parts.push({ kind: PARTS[name][0], weight: PARTS[name][1], id: value });
  }
  return { ...Object.fromEntries(TEXTS.map(name => [name, search.get(name) ?? ''])), parts };
}

function write(of) {
  const search = new URLSearchParams();
  for (const name of TEXTS) if (of[name]) search.set(name, of[name]);
  for (const part of of.parts) {
    search.append(Object.keys(PARTS).find(name => PARTS[name][0] === part.kind && PARTS[name][1] === part.weight), part.id);
  }
  return search.size ? `?${search}` : location.pathname;
}

/** Changes the state; `replace` makes no new step for the back button. */
function go(change, { replace = false } = {}) {
  const next = { ...state, ...change };
  if (write(next) === write(state)) return;
  history[replace ? 'replaceState' : 'pushState'](null, '', write(next));
  turn(next);
}

/** Shows a new state: only what differs is done again. */
function turn(next) {
  const before = state;
  state = next;
  const changed = names => names.some(name => JSON.stringify(before[name]) !== JSON.stringify(state[name]));
  if (changed(['q', 'parts'])) box.set(state);
  if (changed(FILTERS)) filters.set(state);
  if (changed(['view'])) view();
  if (changed(['q', 'parts', ...FILTERS])) find();
  if (changed(['item'])) side(before.item);
}

const searching = () => state.q.trim() !== '' || state.parts.length > 0;

function body(k) {
  const asked = { k, ...filters.asked() };
  if (state.q.trim()) asked.query = state.q.trim();
  const [first] = state.parts;
  // "Like" leaves the item itself out, which one of several parts does not.
  if (state.parts.length === 1 && first.kind === 'key' && first.weight > 0) asked.like = first.id;
  else asked.parts = state.parts.map(({ kind, id, weight }) => kind === 'key' ? { key: id, weight } : { image: pictureOf(id), weight });
  return asked;
}

/** Searches, or lists the collection when there is nothing to search for. */
async function find() {
  running?.abort();
  const { signal } = (running = new AbortController());
  $('busy').hidden = false;
  try {
    if (state.parts.some(part => part.kind === 'picture' && !pictureOf(part.id))) {
      throw new Refused(0, { message: 'The picture of this search was only in the tab that it was dropped into. Drop it again, or remove it.' });
    }
    found = searching() ? { k: FIRST, ...await ask('v1/search', { body: body(FIRST), signal }) } : await list(null, signal);
    filters.tell('');
    grid.set(found.hits ?? found.results, found.stats);
    atlas.mark(found.hits ?? null, found.stats);
    tell();
  } catch (error) {
    if (signal.aborted) return;
    refused(error);
  }
  $('busy').hidden = true;
}

function list(after, signal) {
  const search = new URLSearchParams({ limit: FIRST });
  const { where } = filters.asked();
  if (where) search.set('where', where);
  if (after) search.set('after', after);
  return ask(`v1/items?${search}`, { signal });
}

/** More of the same, when the end of the grid comes near. */
async function more() {
  const { signal } = running, before = found;
  if (before?.results && before.next) {
    const next = await list(before.next, signal).catch(() => null);
    if (!next || found !== before) return;
    found = { ...next, results: [...before.results, ...next.results] };
    grid.add(next.results);
  } else if (before?.hits && before.hits.length === before.k && before.k < MOST) {
    const next = await ask('v1/search', { body: body(MOST), signal }).catch(() => null);
    if (!next || found !== before) return;
    found = { ...next, k: MOST };
    grid.add(next.hits.slice(before.hits.length));
  }
  if (found !== before) tell();
}

function refused(error) {
  if (!(error instanceof Refused)) throw error;
  if (error.param === 'where') return filters.tell(error.message);
  // A query that is not yet whole ("dog -") takes nothing away while one writes it.
  if (error.param !== 'query') {
    found = null;
    grid.set([]);
    atlas.mark(null);
  }
  const advice = error.status === 413 ? ' Try a smaller picture.' : '';
  $('status').replaceChildren(h('p', { class: 'note' }, error.message + advice));
}

/** The line above the results: how many, and what is usual. */
function tell() {
  const { hits, items, matched = items, stats, took_ms } = found;
  const line = h('p');
  if (!hits) line.append(state.view === 'map' ? '' : (matched < items ? `${matched.toLocaleString('en')} of ` : '') + count(items, 'picture'));
  else {
    const best = !hits.length ? 'Nothing found' : hits.length < matched ? `The best ${hits.length}` : 'All';
    line.append(h('b', {}, best), ` of ${count(matched, 'picture')}`);
    if (stats) line.append(h('span', { title: 'Mean and deviation of this query’s scores over the whole collection' }, ` · usual for unrelated: ${score(stats.mean)} ± ${score(stats.deviation)}`));
    if (took_ms !== undefined) line.append(h('span', { class: 'took' }, ` · ${Math.max(1, Math.round(took_ms))} ms`));
  }
  $('status').replaceChildren(line, ...filters.chips());
  const shown = (hits ?? found.results).length;
  if (!shown && filters.any()) $('status').append(h('p', { class: 'none' }, 'Nothing fits the filters. Remove one, or clear them all.'));
  else if (!shown && !hits) $('status').append(h('p', { class: 'none' }, 'The collection is empty. Fill it with ', h('code', {}, 'bifocal index --store STORE FOLDER'), ', then reload.'));
  document.title = state.q ? `${state.q} · Bifocal` : 'Bifocal';
}

function view() {
  const map = state.view === 'map';
  $('maps').setAttribute('aria-pressed', map);
  $('found').hidden = map;
  $('atlas').hidden = !map;
  document.body.classList.toggle('mapped', map);
  if (map) atlas.load(); else grid.layout();
  if (found) tell();
}

function side(before) {
  if (!state.item) {
    detail.close();
    if (state.view === 'map') atlas.focus(); else grid.focus(grid.place(before));
    return;
  }
  const item = [...found?.hits ?? found?.results ?? []].find(item => item.key === state.item);
  detail.open(item ?? { key: state.item, name: base(state.item) }, found?.stats, state.q.trim());
  grid.current(state.item);
}

const like = key => go({ q: '', parts: [{ kind: 'key', id: key, weight: 1 }], item: '', view: '' });
const open = key => go({ item: key }, { replace: state.item !== '' });
const href = key => write({ ...state, item: key });

/** The item beside the open one, in the order of the grid. */
function step(by) {
  const key = grid.beside(state.item, by);
  if (key) open(key);
}

const box = new SearchBox({ go });
const filters = new Filters({ go });
const grid = new Grid($('found'), { open, like, href, more });
const atlas = new Atlas($('atlas'), open);
const detail = new Detail($('side'), { close: () => go({ item: '' }), like, step });
keyboard({ grid, atlas, like, step, state: () => state, toggleMap, close: () => go({ item: '' }) });

function toggleMap() {
  go({ view: state.view === 'map' ? '' : 'map' });
  if (state.view === 'map') atlas.focus();
}
$('maps').onclick = toggleMap;
$('home').onclick = event => {
  if (event.metaKey || event.ctrlKey) return;
  event.preventDefault();
  go({ ...Object.fromEntries(TEXTS.map(name => [name, ''])), parts: [] });
  scrollTo(0, 0);
};
$('theme').onclick = () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  root.dataset.theme = dark ? 'light' : 'dark';
  try { localStorage.setItem('bifocal-theme', root.dataset.theme) } catch { /* for this page only */ }
  atlas.draw();
};
addEventListener('popstate', () => turn(read()));

box.set(state);
filters.set(state);
view();
find().then(() => state.item && side());
