// Everything without a mouse.
import assert from 'node:assert/strict';
import { check, open, query, settled } from './help.mjs';

const focused = page => page.evaluate(() => document.activeElement.dataset.key ?? document.activeElement.id);

check('search, walk, open, more like this, and back', async page => {
  await open(page);
  await page.keyboard.press('/');
  assert.equal(await focused(page), 'query');
  await page.keyboard.type('a kitchen');
  await page.keyboard.press('Enter');
  await settled(page);
  await page.keyboard.press('ArrowDown');
  const tiles = await page.locator('.tile a').evaluateAll(all => all.map(a => a.dataset.key));
  assert.equal(await focused(page), tiles[0]);
  await page.keyboard.press('ArrowRight');
  assert.equal(await focused(page), tiles[1]);
  await page.keyboard.press('ArrowDown');
  const below = await focused(page);
  assert.ok(tiles.indexOf(below) > 2, 'the row below');
  await page.keyboard.press('ArrowUp');
  await page.keyboard.press('Home');
  assert.equal(await focused(page), tiles[0]);
  await page.keyboard.press('ArrowRight');
  await page.keyboard.press('Enter');
  await page.locator('#side').waitFor();
  assert.equal(query(page).get('item'), tiles[1]);
  await page.keyboard.press('ArrowRight');
  assert.equal(query(page).get('item'), tiles[2]);
  await page.keyboard.press('Escape');
  await page.locator('#side').waitFor({ state: 'hidden' });
  assert.equal(await focused(page), tiles[2], 'the focus comes back to the picture');
  await page.keyboard.press('l');
  await settled(page);
  assert.equal(query(page).get('like'), tiles[2]);
  await page.keyboard.press('?');
  await page.locator('#keys').waitFor();
  await page.keyboard.press('Escape');
  await page.locator('#keys').waitFor({ state: 'hidden' });
});

check('the focus is always to be seen, and one Tab leads into the results and out of them', async page => {
  await open(page);
  await page.focus('#help');
  await page.keyboard.press('Tab');
  const key = await focused(page);
  assert.match(key, /\.jpg$/);
  const ring = await page.evaluate(() => getComputedStyle(document.activeElement.querySelector('.frame'), '::after').borderTopWidth);
  assert.equal(ring, '3px');
  await page.keyboard.press('Tab');
  assert.doesNotMatch(await focused(page), /\.jpg$/);
});

check('roles and names for those who do not see the page', async page => {
  await open(page, '?q=dog');
  assert.ok(await page.getByRole('search').isVisible());
  assert.ok(await page.getByRole('searchbox', { name: /own words/ }).isVisible());
  assert.ok(await page.getByRole('grid', { name: 'Results' }).isVisible());
  assert.ok(await page.getByRole('gridcell').count() > 20);
  assert.match(await page.getByRole('status').first().textContent(), /of 50/);
  const unnamed = await page.evaluate(() => [...document.querySelectorAll('button, a, input:not([hidden])')]
    .filter(one => !(one.ariaLabel || one.textContent.trim() || one.closest('label')?.textContent.trim() || one.title)).map(one => one.outerHTML));
  assert.deepEqual(unnamed, []);
});
