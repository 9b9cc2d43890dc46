// Filters, and what the server says about a condition that it cannot read.
import assert from 'node:assert/strict';
import { PHOTO, check, names, open, query, settled } from './help.mjs';

check('filters narrow the list and the search, and chips take them away', async page => {
  await open(page);
  await page.click('#filter');
  await page.fill('[name=folder]', '00000045');
  await settled(page);
  assert.deepEqual(await names(page), [PHOTO.baseball]);
  assert.equal(query(page).get('folder'), '00000045');
  await page.fill('#query', 'a pizza');
  await settled(page);
  assert.deepEqual(await names(page), [PHOTO.baseball]);
  await page.getByRole('button', { name: /in 00000045/ }).click();
  await settled(page);
  assert.equal((await names(page)).length, 50);
});

check('types, sizes, dates and conditions are asked of the store', async page => {
  await open(page);
  await page.click('#filter');
  for (const [field, value, has] of [
    ['ext', 'png', 0], ['ext', '.JPG', 50], ['least', '5', 0], ['most', '5', 50], ['from', '2000-01-01', 50], ['to', '2000-01-01', 0],
    ['where', 'name = "000000519208.jpg" or name like "%160012%"', 2],
  ]) {
    await page.fill(`[name=${field}]`, value);
    await settled(page);
    assert.equal((await names(page)).length, has, `${field} ${value}`);
    if (!has) assert.match(await page.textContent('#status'), /Nothing fits the filters/);
    await page.click('#filters button[type=reset]');
    await settled(page);
  }
});

check('a text with quotes and wildcards is a text', async page => {
  await open(page, `?folder=${encodeURIComponent('a"b\\%_')}`);
  assert.match(await page.textContent('#status'), /Nothing fits the filters/);
  assert.equal(await page.textContent('#wrong'), '');
});

check('an error in the condition is told at its field, and the results stay', async page => {
  await open(page, '?q=dog');
  const before = await names(page);
  await page.keyboard.press('f');
  await page.fill('[name=where]', 'size >');
  await settled(page);
  const wrong = await page.textContent('#wrong');
  assert.ok(wrong.length > 10, wrong);
  assert.equal(await page.getAttribute('[name=where]', 'aria-invalid'), 'true');
  assert.deepEqual(await names(page), before);
  await page.fill('[name=where]', 'size > 1');
  await settled(page);
  assert.equal(await page.textContent('#wrong'), '');
}, { expected: /status of 4\d\d/ });

check('a score below which nothing is shown', async page => {
  await open(page, '?q=dog&min=0.99');
  assert.match(await page.textContent('#status'), /Nothing found/);
  assert.equal((await names(page)).length, 0);
});
