// The search box: text as you type, pictures chosen, dropped or pasted, and items to look like or unlike.

import { show } from './api.js';
import { $, base, h, later } from './dom.js';

/** Bytes that are sent as they are; larger pictures are made smaller here. */
const AS_IS = 4e6;
const KNOWN = /^image\/(jpeg|png|webp|gif|bmp)$/;
const STORED = 'bifocal-picture-';

const pictures = new Map();

/** A dropped picture as a data URI; null when this tab does not have it. */
export function pictureOf(id) {
  if (!pictures.has(id)) {
    try { pictures.set(id, sessionStorage.getItem(STORED + id)) } catch { /* not stored */ }
  }
  return pictures.get(id) ?? null;
}

function keep(picture) {
  const id = Array.from(crypto.getRandomValues(new Uint8Array(6)), byte => byte.toString(16).padStart(2, '0')).join('');
  pictures.set(id, picture);
  try { sessionStorage.setItem(STORED + id, picture) } catch { /* too large: gone after a reload, and said so then */ }
  return id;
}

async function readPicture(file) {
  if (file.size <= AS_IS && KNOWN.test(file.type)) {
    return new Promise((resolve, reject) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result);
      reader.onerror = () => reject(reader.error);
      reader.readAsDataURL(file);
    });
  }
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, 1600 / Math.max(bitmap.width, bitmap.height));
  const canvas = h('canvas', { width: Math.round(bitmap.width * scale), height: Math.round(bitmap.height * scale) });
  canvas.getContext('2d').drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL('image/jpeg', .92);
}

export class SearchBox {
  constructor({ go }) {
    this.go = go;
    this.typed = 0;
    const typed = later(220, () => this.type());
    $('query').addEventListener('input', typed);
    $('search').addEventListener('submit', event => { event.preventDefault(); typed.cancel(); this.typed = 0; this.type() });
    $('query').addEventListener('keydown', event => {
      if (event.key === 'Backspace' && !$('query').value && this.parts.length) this.go({ parts: this.parts.slice(0, -1) });
    });
    $('pick').onclick = () => $('file').click();
    $('file').onchange = () => { this.take([...$('file').files]); $('file').value = '' };
    addEventListener('paste', event => {
      const files = [...event.clipboardData?.files ?? []];
      if (files.length) { event.preventDefault(); this.take(files) }
    });
    this.dropping();
  }

  /** Typing makes one step for the back button, not one a letter. */
  type() {
    const replace = Date.now() - this.typed < 3000;
    this.typed = Date.now();
    this.go({ q: $('query').value }, { replace });
  }

  set({ q, parts }) {
    this.parts = parts;
    if ($('query').value.trim() !== q.trim()) $('query').value = q;
    $('parts').replaceChildren(...parts.map((part, i) => this.chip(part, i)));
    $('query').placeholder = parts.length ? 'and words, if you like' : 'Search in your own words';
  }

  chip(part, i) {
    const img = h('img', { alt: '', width: 34, height: 34 });
    const what = part.kind === 'key' ? base(part.id) : 'your picture';
    if (part.kind === 'key') show(img, part.id);
    else if (pictureOf(part.id)) img.src = pictureOf(part.id);
    const against = part.weight < 0;
    const flip = () => this.go({ parts: this.parts.with(i, { ...part, weight: -part.weight }) });
    const drop = () => { this.go({ parts: this.parts.toSpliced(i, 1) }); $('query').focus() };
    return h('span', { class: against ? 'part against' : 'part', title: what },
      h('button', { type: 'button', class: 'sign', onclick: flip, 'aria-label': `${against ? 'Unlike' : 'Like'} ${what}; switch`, title: against ? 'Unlike this; click for like' : 'Like this; click for unlike' }, against ? '−' : '+'),
      img,
      h('button', { type: 'button', onclick: drop, 'aria-label': `Remove ${what}` }, '×'));
  }

  /** Adds picture files to the search. */
  async take(files) {
    const added = [], failed = [];
    for (const file of files.slice(0, 8)) {
      try {
        if (!file.type.startsWith('image/')) throw new Error('not a picture');
        added.push({ kind: 'picture', id: keep(await readPicture(file)), weight: 1 });
      } catch {
        failed.push(file.name || 'the picture');
      }
    }
    if (added.length) this.go({ parts: [...this.parts, ...added].slice(0, 16) });
    if (failed.length) this.say(`${failed.join(', ')} cannot be read as a picture here. JPEG, PNG and WebP work.`);
  }

  say(text) {
    $('status').prepend(h('p', { class: 'note', role: 'alert' }, text));
  }

  dropping() {
    const curtain = $('drop');
    const ours = 'application/x-bifocal-key';
    const wanted = event => ['Files', ours].some(type => event.dataTransfer?.types.includes(type));
    addEventListener('dragstart', event => {
      const key = event.target.closest?.('[data-key]')?.dataset.key;
      if (key) event.dataTransfer.setData(ours, key);
    });
    addEventListener('dragover', event => {
      if (!wanted(event)) return;
      event.preventDefault();
      curtain.hidden = false;
    });
    addEventListener('dragleave', event => { if (!event.relatedTarget) curtain.hidden = true });
    addEventListener('dragend', () => { curtain.hidden = true });
    addEventListener('drop', event => {
      curtain.hidden = true;
      if (!wanted(event)) return;
      event.preventDefault();
      const key = event.dataTransfer.getData(ours);
      if (key) this.go({ parts: [...this.parts, { kind: 'key', id: key, weight: 1 }] });
      else this.take([...event.dataTransfer.files]);
    });
  }
}
