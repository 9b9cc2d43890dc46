// Small screens, dark and light, and pictures of the page for the README.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { PHOTO, check, open, settled, sideways, world } from './help.mjs';

for (const width of [320, 800]) {
  check(`nothing sticks out at ${width} pixels`, async page => {
    await open(page, '?q=a+dog&ext=jpg&folder=images');
    assert.equal(await sideways(page), 0, 'results');
    await page.click('#filter');
    assert.equal(await sideways(page), 0, 'filters');
    await page.click('#filter');
    await page.locator('.tile a').first().click();
    await page.locator('#side').waitFor();
    const cut = await page.evaluate(() => [...document.querySelectorAll('#side *')].filter(one => one.getBoundingClientRect().right > innerWidth + 1).length);
    assert.equal(cut, 0, 'side view');
    await page.locator('#side').getByRole('button', { name: /Close/ }).click();
    await page.click('#maps');
    await page.locator('#atlas').filter({ hasText: /Near means alike/ }).waitFor();
    assert.equal(await sideways(page), 0, 'map');
  }, { width, height: 640, hasTouch: width < 500 });
}

const ground = page => page.evaluate(() => getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number)[0]);

check('dark and light follow the system, and the switch is remembered', async page => {
  await open(page);
  assert.ok(await ground(page) < 60);
  await page.emulateMedia({ colorScheme: 'light' });
  assert.ok(await ground(page) > 200);
  await page.click('#theme');
  assert.ok(await ground(page) < 60);
  await page.reload();
  assert.ok(await ground(page) < 60);
}, { colorScheme: 'dark' });

check('words can be read: contrast of text on its ground is 4.5 or more', async page => {
  for (const colorScheme of ['dark', 'light']) {
    await page.emulateMedia({ colorScheme });
    await open(page, '?q=a+dog');
    const low = await page.evaluate(() => {
      const light = ([r, g, b]) => [r, g, b].map(c => (c /= 255) <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4).reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
      const parse = colour => colour.match(/[\d.]+/g)?.map(Number) ?? [0, 0, 0, 0];
      const under = one => { for (; one; one = one.parentElement) { const c = parse(getComputedStyle(one).backgroundColor); if (c.length < 4 || c[3] === 1) return c } return [255, 255, 255] };
      return [...document.querySelectorAll('#status *, .line *, .rest *, nav *, #home span')].filter(one => one.childNodes.length && one.offsetParent && [...one.childNodes].some(n => n.nodeType === 3)).map(one => {
        const [a, b] = [light(parse(getComputedStyle(one).color)), light(under(one))].sort((x, y) => y - x);
        return [(a + .05) / (b + .05), one.textContent];
      }).filter(([ratio]) => ratio < 4.5);
    });
    assert.deepEqual(low, [], colorScheme);
  }
});

if (world.screenshots) check('pictures of the page', async page => {
  const shot = async (name, colorScheme, search, before = () => {}) => {
    await page.emulateMedia({ colorScheme });
    await open(page, search);
    await before();
    await page.waitForLoadState('networkidle');
    await page.waitForTimeout(400);
    await page.screenshot({ path: join(world.screenshots, name), type: 'jpeg', quality: 82 });
  };
  await shot('page.jpg', 'light', '?q=boys+playing+baseball', async () => {
    await page.getByRole('gridcell').filter({ hasText: PHOTO.baseball }).locator('a').click();
    await page.locator('#side img.large.here').waitFor();
    for (const [i, words] of ['Kinder beim Sport', 'des garçons jouent au baseball', 'a pizza on a table'].entries()) {
      await page.locator('.words input').nth(i + 1).fill(words);
    }
    await page.waitForFunction(() => [...document.querySelectorAll('.words output')].filter(one => one.textContent).length === 4);
    await settled(page);
    await page.evaluate(() => document.activeElement.blur());
  });
  await shot('page-map.jpg', 'dark', '?view=map&q=food+on+a+plate');
}, { width: 1280, height: 800 });
