// What the tests of the page share: a page that complains about errors of its own, and words for what they do.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';

export let world;
export const setUp = given => { world = given };

/** The photos that the tests name, by what they show. */
export const PHOTO = {
  pizza: '000000160012.jpg', dog: '000000427034.jpg', baseball: '000000458045.jpg', luggage: '000000475678.jpg', elephant: '000000519208.jpg', clock: '000000551780.jpg',
};
export const photo = name => readFileSync(join(world.photos, name));

/**
 * A test with a page of its own. Whatever the page's console says, what it throws and what its policy forbids fail the test, except messages that
 * match `expected`.
 */
export function check(name, run, { width = 1400, height = 900, expected = /^$/, ...context } = {}) {
  test(name, async () => {
    const window = await world.chrome.newContext({ viewport: { width, height }, ...context });
    const page = await window.newPage();
    page.setDefaultTimeout(20_000);
    const complaints = [];
    page.on('console', message => { if (['error', 'warning'].includes(message.type())) complaints.push(message.text()) });
    page.on('pageerror', error => complaints.push(String(error)));
    try {
      await run(page);
      assert.deepEqual(complaints.filter(text => !expected.test(text)), []);
    } finally {
      await window.close();
    }
  });
}

/** Opens the page and waits until it shows something. */
export async function open(page, search = '', url = world.url) {
  await page.goto(url + search);
  await settled(page);
}

/** Until the answer of the last search is shown. */
export async function settled(page) {
  // longer than the page waits for another letter
  await page.waitForTimeout(450);
  await page.locator('#busy').waitFor({ state: 'hidden' });
}

export async function type(page, text) {
  await page.fill('#query', text);
  await settled(page);
}

export const names = page => page.locator('.tile .line span').allTextContents();

/** The place of a photo among the results, from 0; -1 when it is not there. */
export const rank = async (page, name) => (await names(page)).indexOf(name);

export const query = page => new URL(page.url()).searchParams;

/** How far the page can be moved sideways, in pixels. */
export const sideways = page => page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);

/** The key of an item, from its name. */
export const key = (page, name) => page.getByRole('gridcell').filter({ hasText: name }).locator('a').getAttribute('data-key');

/** Drops a file onto the page as the mouse would. */
export async function drop(page, bytes, name, type) {
  const data = await page.evaluateHandle(([base64, name, type]) => {
    const bytes = Uint8Array.from(atob(base64), c => c.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], name, { type }));
    return data;
  }, [bytes.toString('base64'), name, type]);
  await page.dispatchEvent('main', 'dragover', { dataTransfer: data });
  assert.ok(await page.locator('#drop').isVisible(), 'the page shows where to drop');
  await page.dispatchEvent('main', 'drop', { dataTransfer: data });
  await settled(page);
}
