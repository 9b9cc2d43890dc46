// The map of the collection.
import assert from 'node:assert/strict';
import { PHOTO, check, open, query, settled } from './help.mjs';

const ready = page => page.locator('#atlas').filter({ hasText: /50 pictures\. Near means alike/ }).waitFor();
const label = page => page.locator('.label').textContent();

/** How many different colours a coarse look at the canvas sees. */
const colours = page => page.evaluate(() => {
  const canvas = document.querySelector('canvas'), { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  const seen = new Set();
  for (let i = 0; i < data.length; i += 4 * 97) seen.add(`${data[i] >> 4},${data[i + 1] >> 4},${data[i + 2] >> 4},${data[i + 3] >> 6}`);
  return seen.size;
});

check('shows every picture; keys walk, go nearer and open', async page => {
  await open(page);
  await page.click('#maps');
  await ready(page);
  assert.equal(query(page).get('view'), 'map');
  await page.waitForTimeout(500);
  assert.ok(await colours(page) > 100, 'thumbnails are drawn');
  await page.keyboard.press('ArrowRight');
  const first = await label(page);
  assert.match(first, /\.jpg/);
  for (const key of ['ArrowLeft', 'ArrowUp', 'ArrowDown', 'ArrowRight']) await page.keyboard.press(key);
  await page.keyboard.press('+');
  await page.keyboard.press('0');
  const chosen = await label(page);
  await page.keyboard.press('Enter');
  await page.locator('#side img.large.here').waitFor();
  assert.equal(await page.textContent('#name'), chosen);
  await page.locator('.facts').filter({ hasText: chosen }).waitFor();
  await page.keyboard.press('Escape');
  await page.keyboard.press('m');
  assert.ok(await page.locator('#found').isVisible());
});

check('the mouse moves it, goes nearer, and opens a picture', async page => {
  await open(page, '?view=map');
  await ready(page);
  await page.waitForTimeout(300);
  const spot = await page.evaluate(async () => {
    const canvas = document.querySelector('canvas'), box = canvas.getBoundingClientRect();
    const seen = {};
    for (let y = 40; y < box.height - 40; y += 6) {
      for (let x = 40; x < box.width - 40; x += 6) {
        canvas.dispatchEvent(new PointerEvent('pointermove', { clientX: box.left + x, clientY: box.top + y }));
        (seen[document.querySelector('.label').textContent] ??= []).push([box.left + x, box.top + y]);
      }
    }
    delete seen[''];
    // the middle of the picture of which most is to be seen
    const [name, places] = Object.entries(seen).sort((a, b) => b[1].length - a[1].length)[0];
    const middle = axis => places.reduce((sum, place) => sum + place[axis], 0) / places.length;
    return { x: middle(0), y: middle(1), name };
  });
  await page.mouse.move(spot.x, spot.y);
  await page.mouse.wheel(0, -300);
  await page.waitForTimeout(100);
  assert.equal(await label(page), spot.name, 'what is under the mouse stays there');
  await page.mouse.down();
  await page.mouse.move(spot.x + 60, spot.y + 30, { steps: 4 });
  await page.mouse.up();
  assert.equal(await page.locator('#side').isVisible(), false, 'moving the map opens nothing');
  await page.mouse.click(spot.x + 60, spot.y + 30);
  await page.locator('#side').waitFor();
  assert.equal(await page.textContent('#name'), spot.name);
});

check('a search highlights its hits', async page => {
  await open(page, '?view=map');
  await ready(page);
  const before = await page.evaluate(() => document.querySelector('canvas').toDataURL());
  await page.fill('#query', 'a pizza');
  await settled(page);
  assert.notEqual(await page.evaluate(() => document.querySelector('canvas').toDataURL()), before);
  assert.ok(await page.locator('#atlas').isVisible());
  await page.keyboard.press('m');
  assert.equal(await page.inputValue('#query'), 'a pizzam', 'keys of the page are letters in the box');
});
