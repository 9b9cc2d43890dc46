// Fingers: on the grid, on the map, and in the side view.
import assert from 'node:assert/strict';
import { check, names, open, query, settled, sideways } from './help.mjs';

const PHONE = { width: 390, height: 780, hasTouch: true, isMobile: true };

/** Moves fingers along lines, each from [x, y] to [x, y], as the screen would report it. */
async function fingers(page, lines, steps = 8) {
  const chrome = await page.context().newCDPSession(page);
  const at = t => lines.map(([from, to], id) => ({ id, x: from[0] + (to[0] - from[0]) * t, y: from[1] + (to[1] - from[1]) * t }));
  const send = (type, touchPoints) => chrome.send('Input.dispatchTouchEvent', { type, touchPoints });
  await send('touchStart', at(0));
  for (let i = 1; i <= steps; i++) await send('touchMove', at(i / steps));
  await send('touchEnd', []);
  await page.waitForTimeout(150);
}

/** The canvas as numbers, coarsely: what is drawn where. */
const drawn = page => page.evaluate(() => {
  const canvas = document.querySelector('canvas'), { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  const seen = [];
  for (let i = 0; i < data.length; i += 4 * 1009) seen.push(data[i] >> 5);
  return seen;
});
const differs = (a, b) => a.filter((value, i) => value !== b[i]).length / a.length;

/** The middle of the canvas, and its size. */
const middle = page => page.evaluate(() => {
  const { left, top, width, height } = document.querySelector('canvas').getBoundingClientRect();
  return { x: left + width / 2, y: top + height / 2, width, height };
});

check('a tap opens a picture, the grid scrolls under a finger, and more like this is one tap away', async page => {
  await open(page, '?q=a+dog');
  assert.equal(await sideways(page), 0);
  await fingers(page, [[[200, 600], [200, 200]]]);
  assert.ok(await page.evaluate(() => scrollY) > 100, 'the grid scrolls');
  // a tap while the page still rolls only stops it
  await page.waitForTimeout(1500);
  await page.evaluate(() => scrollTo(0, 0));
  await page.waitForTimeout(300);
  const [first, second] = await names(page);
  await page.locator('.tile a').first().tap();
  await page.locator('#side').waitFor();
  assert.equal(await page.textContent('#name'), first);
  const sizes = await page.evaluate(() => [...document.querySelectorAll('#side button')].filter(one => one.offsetParent).map(one => Math.min(one.offsetWidth, one.offsetHeight)));
  assert.ok(Math.min(...sizes) >= 32, `buttons for fingers: ${sizes}`);
  await fingers(page, [[[300, 300], [100, 310]]]);
  assert.equal(await page.textContent('#name'), second, 'a finger that goes sideways shows the next one');
  await fingers(page, [[[100, 300], [300, 310]]]);
  assert.equal(await page.textContent('#name'), first);
  // the same here: what fingers have moved rolls on for a while
  await page.waitForTimeout(1500);
  await page.locator('#side').getByRole('button', { name: /more like this/i }).tap();
  await page.waitForFunction(() => new URLSearchParams(location.search).has('like'));
  await settled(page);
  assert.ok(query(page).get('like').endsWith(first));
}, PHONE);

check('one finger moves the map, two change how near it is, a tap opens', async page => {
  await open(page, '?view=map');
  await page.locator('#atlas').filter({ hasText: /Near means alike/ }).waitFor();
  await page.waitForTimeout(600);
  const { x, y } = await middle(page), whole = await drawn(page);
  await fingers(page, [[[x, y], [x + 90, y + 60]]]);
  const moved = await drawn(page);
  assert.ok(differs(whole, moved) > .05, 'moved');
  await fingers(page, [[[x + 90, y + 60], [x, y]]]);
  assert.ok(differs(whole, await drawn(page)) < differs(whole, moved) / 2, 'and back');
  await fingers(page, [[[x - 30, y], [x - 150, y]], [[x + 30, y], [x + 150, y]]]);
  const near = await drawn(page);
  assert.ok(differs(whole, near) > .05, 'nearer');
  await fingers(page, [[[x - 150, y], [x - 30, y]], [[x + 150, y], [x + 30, y]]]);
  assert.ok(differs(whole, await drawn(page)) < differs(whole, near), 'and farther');
  assert.equal(query(page).get('item'), null, 'a gesture opens nothing');
  assert.equal(await page.evaluate(() => visualViewport.scale), 1, 'the page itself is not zoomed');
  await page.getByRole('button', { name: /Everything/ }).tap();
  await page.waitForTimeout(400);
  const spot = await page.evaluate(() => {
    const canvas = document.querySelector('canvas'), box = canvas.getBoundingClientRect();
    for (let y = 60; y < box.height - 100; y += 8) {
      for (let x = 30; x < box.width - 80; x += 8) {
        canvas.dispatchEvent(new PointerEvent('pointermove', { clientX: box.left + x, clientY: box.top + y, pointerId: 99 }));
        if (document.querySelector('.label').textContent) return [box.left + x + 4, box.top + y + 4];
      }
    }
  });
  await page.touchscreen.tap(...spot);
  await page.locator('#side').waitFor();
  assert.ok(query(page).get('item'));
}, { ...PHONE, expected: /willReadFrequently/ });
