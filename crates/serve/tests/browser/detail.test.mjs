// The side view.
import assert from 'node:assert/strict';
import { PHOTO, check, open, query, settled } from './help.mjs';

const side = page => page.locator('#side');

check('a click opens the picture with what is known of it; the address opens it again', async page => {
  await open(page, '?q=an+elephant');
  await page.getByRole('gridcell').filter({ hasText: PHOTO.elephant }).locator('a').click();
  await side(page).locator('img.large.here').waitFor();
  assert.equal(await page.textContent('#name'), PHOTO.elephant);
  assert.match(await page.textContent('.facts'), new RegExp(PHOTO.elephant));
  assert.match(query(page).get('item'), new RegExp(PHOTO.elephant));
  await page.reload();
  await side(page).locator('img.large.here').waitFor();
  await page.keyboard.press('Escape');
  await side(page).waitFor({ state: 'hidden' });
  assert.equal(query(page).get('item'), null);
  await page.goBack();
  await side(page).waitFor();
});

check('your own words are measured as you type', async page => {
  await open(page, '?q=a+large+clock');
  await page.getByRole('gridcell').filter({ hasText: PHOTO.clock }).locator('a').click();
  const lines = side(page).locator('.words label');
  assert.equal(await lines.first().locator('input').inputValue(), 'a large clock');
  await lines.nth(1).locator('input').fill('a pizza on a table');
  await lines.nth(1).locator('output').filter({ hasText: /\d/ }).waitFor();
  assert.equal(await lines.count(), 3, 'there is a line for the next text');
  const score = async i => Number((await lines.nth(i).locator('output').textContent()).replace('−', '-'));
  await lines.first().locator('output').filter({ hasText: /\d/ }).waitFor();
  assert.ok(await score(0) > await score(1));
  assert.match(await lines.nth(0).getAttribute('class'), /best/);
  const before = await score(0);
  await page.getByRole('button', { name: /Next/ }).click();
  await settled(page);
  assert.equal(await lines.nth(1).locator('input').inputValue(), 'a pizza on a table', 'the words stay for the next picture');
  assert.notEqual(await score(0), before);
});

check('more like this from the side view', async page => {
  await open(page, '?q=luggage');
  await page.locator('.tile a').first().click();
  await side(page).getByRole('button', { name: 'More like this' }).click();
  await settled(page);
  await side(page).waitFor({ state: 'hidden' });
  assert.ok(query(page).get('like'));
});

check('a question about the picture is answered, and the next one after it', async page => {
  await open(page, '?q=an+elephant');
  await page.getByRole('gridcell').filter({ hasText: PHOTO.elephant }).locator('a').click();
  const talk = side(page).locator('.talk');
  const ask = async (text, answers) => {
    await talk.getByRole('textbox').fill(text);
    await page.keyboard.press('Enter');
    await page.waitForFunction(n => document.querySelectorAll('.talk p:not(.asked, .busy)').length === n, answers);
    assert.ok((await talk.locator('p:not(.asked)').last().textContent()).trim());
  };
  await ask('w5 w6', 1);
  await ask('w7', 2);
  assert.deepEqual(await talk.locator('.asked').allTextContents(), ['w5 w6', 'w7']);
  await page.getByRole('button', { name: /Next/ }).click();
  await settled(page);
  assert.equal(await talk.locator('p').count(), 0, 'another picture, another talk');
});
