// Requests: the API key, errors that say what to do, and trying again where that helps.

import { $, h } from './dom.js';

const KEY = 'bifocal-api-key';
let apiKey = null;
try { apiKey = sessionStorage.getItem(KEY) } catch { /* kept in memory only */ }

/** What the server refused: its status, message and the field that is meant. */
export class Refused extends Error {
  constructor(status, error) {
    super(error?.message || `the server answered with status ${status}`);
    this.status = status;
    this.param = error?.param ?? null;
  }
}

/** Asks the server for JSON; see `request`. */
export const ask = async (path, options) => (await request(path, options)).json();

/** Asks the server for what it says piece by piece (server-sent events); gives the value of each piece. */
export async function* events(path, options) {
  const lines = (await request(path, options)).body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ''; ;) {
    const { done, value } = await lines.read();
    if (done) return;
    const all = (rest + value).split('\n\n');
    rest = all.pop();
    for (const line of all) if (line.startsWith('data: {')) yield JSON.parse(line.slice(6));
  }
}

/** An item's file as a data URI. */
export async function file(key, signal) {
  const blob = await (await request(address(key, 'picture'), { signal })).blob();
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

/**
 * An answer of the server. With `body` it is a POST. Waits and tries again while the server is gone, overloaded or starting, and tells so;
 * asks for the API key where one is needed. Throws `Refused` for everything else, and an AbortError when `signal` says so.
 */
async function request(path, { body, signal } = {}) {
  let keyWasAsked = false;
  for (let attempt = 0; ; attempt++) {
    const headers = apiKey ? { Authorization: `Bearer ${apiKey}` } : {};
    if (body) headers['Content-Type'] = 'application/json';
    let response, error;
    try {
      response = await fetch(path, { method: body ? 'POST' : 'GET', headers, body: body && JSON.stringify(body), signal });
      if (response.ok) return response;
      error = (await response.json().catch(() => null))?.error;
    } catch (failure) {
      if (failure.name === 'AbortError') throw failure;
    }
    const status = response?.ok ? 0 : response?.status ?? 0;
    if (status === 401) {
      await askKey(keyWasAsked || apiKey !== null, signal);
      keyWasAsked = true;
    } else if (status in REASONS) {
      const asked = Number(response?.headers.get('Retry-After'));
      const wait = asked > 0 ? Math.min(asked, 120) : Math.min(2 ** attempt, 30);
      await pause(REASONS[status], wait, signal);
    } else {
      throw new Refused(status, error);
    }
  }
}

/** The states that pass, and what the user reads meanwhile. */
const REASONS = {
  0: 'The server does not answer. Is “bifocal serve” still running?',
  429: 'The server has more to do than it can take at the moment.',
  502: 'The proxy in front of the server does not reach it.',
  503: 'The server is starting, or about to stop.',
  504: 'The server took too long for this.',
};

const waiting = new Set();

/** Tells the reason and waits some seconds; the button and the network's return end it early. */
function pause(reason, seconds, signal) {
  return new Promise((resolve, reject) => {
    const entry = { reason, until: Date.now() + seconds * 1000, end };
    const timer = setTimeout(end, seconds * 1000);
    function end() { close(); resolve() }
    function abort() { close(); reject(signal.reason) }
    function close() {
      clearTimeout(timer);
      waiting.delete(entry);
      signal?.removeEventListener('abort', abort);
      tellWaiting();
    }
    if (signal?.aborted) return abort();
    signal?.addEventListener('abort', abort);
    waiting.add(entry);
    tellWaiting();
  });
}

addEventListener('online', () => waiting.forEach(entry => entry.end()));

let shown = null, ticking;
function tellWaiting() {
  const bar = $('trouble'), last = [...waiting].pop();
  clearInterval(ticking);
  // A moment of nothing between two tries would flicker: the bar goes when an answer has had time to come.
  if (!last) return void (ticking = setInterval(() => { clearInterval(ticking); bar.hidden = true; shown = null }, 400));
  if (shown !== last.reason || bar.hidden) {
    shown = last.reason;
    const again = h('button', { type: 'button', onclick: () => waiting.forEach(entry => entry.end()) }, 'Try now');
    bar.replaceChildren(h('span', {}, last.reason), h('span', { 'aria-hidden': 'true' }), again);
    bar.hidden = false;
  }
  const tick = () => {
    const left = Math.max(1, Math.ceil((last.until - Date.now()) / 1000));
    bar.children[1].textContent = `Trying again in ${left} s.`;
  };
  tick();
  ticking = setInterval(tick, 500);
}

let asking = null;

/** Asks for the API key, once for all requests that need it. */
function askKey(wasWrong, signal) {
  asking ??= new Promise(resolve => {
    const dialog = $('door');
    const input = h('input', { type: 'password', autocomplete: 'off', required: true, 'aria-label': 'API key' });
    const form = h('form', { method: 'dialog' },
      h('h2', {}, 'This server needs an API key'),
      h('p', {}, wasWrong ? 'The key was not accepted. ' : '', 'It is the one that the server was started with (BIFOCAL_API_KEY). It stays in this tab and is forgotten with it.'),
      input, h('button', { class: 'primary' }, 'Continue'));
    dialog.replaceChildren(form);
    dialog.oncancel = event => event.preventDefault();
    dialog.onclose = () => {
      apiKey = input.value.trim();
      try { sessionStorage.setItem(KEY, apiKey) } catch { /* kept in memory only */ }
      asking = null;
      resolve();
    };
    dialog.showModal();
    input.focus();
  });
  return Promise.race([asking, new Promise((_, reject) => signal?.addEventListener('abort', () => reject(signal.reason)))]);
}

/** The address of an item's thumbnail or picture. */
export const address = (key, what = 'thumbnail') => `v1/items/${what}?key=${encodeURIComponent(key)}`;

// An <img> cannot send the API key; with one, pictures are fetched when they come near the screen and shown from memory.
const near = new IntersectionObserver(entries => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    near.unobserve(target);
    load(target, target.dataset.from);
  }
}, { rootMargin: '400px' });

async function load(img, from) {
  try {
    const response = await fetch(from, { headers: { Authorization: `Bearer ${apiKey}` } });
    if (!response.ok) throw new Error();
    const url = URL.createObjectURL(await response.blob());
    img.addEventListener('load', () => URL.revokeObjectURL(url), { once: true });
    img.src = url;
  } catch {
    img.dispatchEvent(new Event('error'));
  }
}

/** Shows an item's picture in an <img>; at once, or when it comes near the screen. */
export function show(img, key, { what = 'thumbnail', lazy = true } = {}) {
  const from = address(key, what);
  img.decoding = 'async';
  if (lazy) img.loading = 'lazy';
  if (!apiKey) return void (img.src = from);
  img.dataset.from = from;
  if (lazy) near.observe(img); else load(img, from);
}
