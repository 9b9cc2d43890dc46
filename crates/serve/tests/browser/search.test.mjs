// By text, by picture, by both, by another item.
import assert from 'node:assert/strict';
import { PHOTO, check, drop, names, open, photo, query, rank, settled, type } from './help.mjs';

check('the collection is listed, and a text brings what it says to the top', async page => {
  await open(page);
  assert.match(await page.textContent('#status'), /^50 pictures/);
  assert.equal((await names(page)).length, 50);
  await type(page, 'boys playing baseball');
  assert.ok(await rank(page, PHOTO.baseball) < 5);
  assert.equal(query(page).get('q'), 'boys playing baseball');
  assert.match(await page.title(), /boys playing baseball/);
  const scores = (await page.locator('.tile .line b').allTextContents()).map(text => Number(text.replace('−', '-')));
  assert.ok(scores.length > 20 && scores.every(Number.isFinite));
  assert.deepEqual(scores, scores.toSorted((a, b) => b - a));
});

check('a new search does away with the one before it', async page => {
  await open(page);
  const bodies = [];
  page.on('request', request => { if (request.url().endsWith('/v1/search')) bodies.push(request.postDataJSON().query) });
  await page.locator('#query').pressSequentially('a dog on the beach', { delay: 20 });
  await settled(page);
  assert.equal(bodies.at(-1), 'a dog on the beach');
  assert.ok(bodies.length <= 3, `one search for many letters, not ${bodies.length}`);
});

check('scores come with what is usual for the query', async page => {
  await open(page, '?q=a+large+clock');
  assert.match(await page.textContent('#status'), /usual for unrelated: −?0\.\d{3} ± 0\.\d{3}/);
  assert.ok(await page.locator('.tile .meter').count() > 20);
  assert.match(await page.locator('.tile a').first().getAttribute('aria-label'), /score .*(deviations above|usual)/);
  await page.locator('.rest').waitFor();
});

check('a dropped picture finds itself, and words bend the search', async page => {
  await open(page);
  await drop(page, photo(PHOTO.elephant), 'mine.jpg', 'image/jpeg');
  assert.equal((await names(page))[0], PHOTO.elephant);
  assert.equal(await page.locator('.part img').count(), 1);
  const alone = await page.locator('.tile .line b').first().textContent();
  await type(page, 'a pizza on a table');
  assert.notEqual(await page.locator('.tile .line b').first().textContent(), alone);
  assert.ok(await rank(page, PHOTO.elephant) < 10);
  await page.reload();
  await settled(page);
  assert.equal(await page.locator('.part img').count(), 1, 'the tab keeps the picture over a reload');
  await page.click('.part button:last-child');
  await page.fill('#query', '');
  await settled(page);
  assert.match(await page.textContent('#status'), /^50 pictures/);
});

check('a picture can be pasted, chosen, and turned against the search', async page => {
  await open(page);
  await page.evaluate(base64 => {
    const data = new DataTransfer();
    data.items.add(new File([Uint8Array.from(atob(base64), c => c.charCodeAt(0))], 'p.jpg', { type: 'image/jpeg' }));
    document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true }));
  }, photo(PHOTO.clock).toString('base64'));
  await settled(page);
  assert.equal((await names(page))[0], PHOTO.clock);
  await page.setInputFiles('#file', { name: 'q.jpg', mimeType: 'image/jpeg', buffer: photo(PHOTO.luggage) });
  await settled(page);
  assert.deepEqual(new Set((await names(page)).slice(0, 2)), new Set([PHOTO.clock, PHOTO.luggage]));
  await page.locator('.part .sign').first().click();
  await settled(page);
  assert.equal((await names(page))[0], PHOTO.luggage);
  assert.ok(await rank(page, PHOTO.clock) > 20);
});

check('what is no picture is told, and changes nothing', async page => {
  await open(page, '?q=dog');
  await drop(page, Buffer.from('not a picture'), 'notes.txt', 'text/plain');
  assert.match(await page.textContent('.note'), /notes\.txt cannot be read as a picture/);
  await drop(page, Buffer.from('broken'), 'broken.png', 'image/png');
  await page.locator('.note').filter({ hasText: /picture|image/ }).first().waitFor();
}, { expected: /status of 4\d\d/ });

check('more like this leaves the picture itself out', async page => {
  await open(page, '?q=pizza');
  const tile = page.getByRole('gridcell').filter({ hasText: PHOTO.pizza });
  await tile.hover();
  await tile.getByRole('button', { name: /More like/ }).click();
  await settled(page);
  assert.match(query(page).get('like'), new RegExp(PHOTO.pizza));
  assert.equal(await rank(page, PHOTO.pizza), -1);
  assert.equal(await page.inputValue('#query'), '');
  await page.goBack();
  await settled(page);
  assert.equal(await page.inputValue('#query'), 'pizza');
});

check('a minus takes words out of the search; half of it takes nothing away', async page => {
  await open(page, '?q=a+dog');
  assert.equal(await rank(page, PHOTO.dog), 0);
  await type(page, 'an animal -');
  assert.match(await page.textContent('#status .note'), /no text behind/);
  assert.equal((await names(page)).length, 50);
  await type(page, 'an animal - a dog');
  assert.ok(await rank(page, PHOTO.dog) > 10);
}, { expected: /status of 4\d\d/ });
