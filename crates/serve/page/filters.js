// The filters: a few fields that become one condition in the store's language, and that language itself for whoever wants more.

import { $, h, later } from './dom.js';

/** Text in quotes as the condition's parser reads it. */
export const quoted = text => `"${text.replace(/[\\"]/g, '\\$&')}"`;
const containing = text => quoted(`%${text.trim().replace(/[\\%_]/g, '\\$&')}%`);
const types = text => text.split(/[\s,;.]+/).filter(Boolean).map(type => quoted(type.toLowerCase())).join(', ');

/** Field → what a chip says, and its part of the condition. */
const FIELDS = {
  folder: [value => `in ${value}`, value => `path like ${containing(value)}`],
  ext: [value => value, value => types(value) && `ext in (${types(value)})`],
  from: [value => `from ${value}`, value => `date >= ${quoted(value)}`],
  to: [value => `until ${value}`, value => `date <= ${quoted(value)}`],
  least: [value => `over ${value} MB`, value => `size >= ${Number(value)}MB`],
  most: [value => `under ${value} MB`, value => `size <= ${Number(value)}MB`],
  min: [value => `score ≥ ${value}`, () => ''],
  where: [value => value, value => value],
};

export class Filters {
  constructor({ go }) {
    Object.assign(this, { go, values: {}, form: $('filters') });
    const change = later(350, () => this.changed());
    this.form.addEventListener('input', change);
    this.form.addEventListener('submit', event => { event.preventDefault(); change.cancel(); this.changed() });
    this.form.addEventListener('reset', event => { event.preventDefault(); this.clear() });
    this.form.addEventListener('keydown', event => { if (event.key === 'Escape') { this.open(false); $('filter').focus() } });
    $('filter').onclick = () => this.open(this.form.hidden);
  }

  open(yes) {
    this.form.hidden = !yes;
    $('filter').setAttribute('aria-expanded', yes);
    if (yes) this.form.elements.folder.focus();
  }

  changed() {
    const values = {};
    for (const name of Object.keys(FIELDS)) {
      const field = this.form.elements[name];
      // Half a number or date reads as empty; the filter waits until it is whole.
      if (!field.validity.badInput) values[name] = field.value.trim();
    }
    this.go(values, { replace: true });
  }

  clear(names = Object.keys(FIELDS)) {
    this.go(Object.fromEntries(names.map(name => [name, ''])));
  }

  set(state) {
    for (const name of Object.keys(FIELDS)) {
      this.values[name] = state[name];
      const field = this.form.elements[name];
      if (field.value.trim() !== state[name]) field.value = state[name];
    }
    $('filter').classList.toggle('on', this.any());
  }

  any() {
    return Object.values(this.values).some(value => value !== '');
  }

  /** What the API is asked for. The user's own condition comes first, so that a column in an error is one of the field. */
  asked() {
    const all = ['where', ...Object.keys(FIELDS).slice(0, -1)].map(name => this.values[name] && FIELDS[name][1](this.values[name])).filter(Boolean);
    if (all.length > 1 && this.values.where) all[0] = `(${all[0]})`;
    const asked = {};
    if (all.length) asked.where = all.join(' and ');
    const least = Number(this.values.min);
    if (this.values.min && Number.isFinite(least)) asked.min_score = least;
    return asked;
  }

  /** Shows the server's word on the condition beside it; empty when it is fine. */
  tell(message) {
    $('wrong').textContent = message;
    this.form.elements.where.setAttribute('aria-invalid', message !== '');
    if (message && this.form.hidden) this.open(true);
  }

  /** A chip for each filter in force, which takes it away. */
  chips() {
    return Object.keys(FIELDS).filter(name => this.values[name]).map(name => h('button', {
      type: 'button', class: 'chip', title: 'Remove this filter', onclick: () => this.clear([name]),
    }, FIELDS[name][0](this.values[name]), h('span', { 'aria-hidden': 'true' }, ' ×'), h('span', { class: 'unseen' }, ', remove')));
  }
}
