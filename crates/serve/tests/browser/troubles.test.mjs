// Servers that are gone, busy or closed, and a page that lets nothing foreign run.
import assert from 'node:assert/strict';
import { PHOTO, check, names, open, settled, type, world } from './help.mjs';

const refusal = (status, message, headers = {}) => ({ status, headers, contentType: 'application/json', body: JSON.stringify({ error: { message, type: 'x', param: null, code: null } }) });

for (const [status, words] of [[429, /more to do than it can take/], [503, /starting, or about to stop/]]) {
  check(`${status} is told, tried again after a while, and then forgotten`, async page => {
    await open(page);
    let left = 2;
    await page.route('**/v1/search', route => left-- > 0 ? route.fulfill(refusal(status, 'no', { 'Retry-After': '1' })) : route.continue());
    await page.fill('#query', 'an elephant');
    await page.locator('#trouble').filter({ hasText: words }).waitFor();
    assert.match(await page.textContent('#trouble'), /Trying again in \d s/);
    await page.locator('#trouble').waitFor({ state: 'hidden' });
    assert.ok((await names(page)).includes(PHOTO.elephant));
  }, { expected: /status of (429|503)/ });
}

check('a server that is gone is told, and found again when it is back', async page => {
  await open(page);
  await page.route('**/v1/**', route => route.abort());
  await page.fill('#query', 'a clock');
  await page.locator('#trouble').filter({ hasText: /does not answer.*bifocal serve/ }).waitFor();
  await page.unroute('**/v1/**');
  await page.getByRole('button', { name: 'Try now' }).click();
  await page.locator('#trouble').waitFor({ state: 'hidden' });
  assert.ok((await names(page)).includes(PHOTO.clock));
}, { expected: /ERR_FAILED/ });

check('another error is told in the words of the server', async page => {
  await open(page);
  await page.route('**/v1/search', route => route.fulfill(refusal(400, 'the text has <b>too many</b> tokens')));
  await type(page, 'x');
  assert.equal(await page.textContent('#status .note'), 'the text has <b>too many</b> tokens');
  assert.equal(await page.locator('#status b').count(), 0);
}, { expected: /status of 400/ });

check('an API key is asked for once, and pictures come with it', async page => {
  const closed = await world.serve({ BIFOCAL_API_KEY: 'open sesame' });
  try {
    await page.goto(closed.url);
    await page.locator('#door').waitFor();
    await page.fill('#door input', 'wrong');
    await page.keyboard.press('Enter');
    await page.locator('#door').filter({ hasText: 'not accepted' }).waitFor();
    await page.fill('#door input', 'open sesame');
    await page.keyboard.press('Enter');
    await settled(page);
    assert.equal((await names(page)).length, 50);
    await page.waitForFunction(() => document.querySelector('.frame img')?.naturalWidth > 0);
    await page.reload();
    await settled(page);
    assert.equal(await page.locator('#door').isVisible(), false, 'the tab remembers it');
    await page.locator('.tile a').first().click();
    await page.locator('#side img.large.here').waitFor();
  } finally {
    await closed.stop();
  }
}, { expected: /status of 401/ });

check('names and metadata are text, never markup, and no script or style of others runs', async page => {
  const nasty = '<img src=x onerror="window.hit = 1"><script>window.hit = 1</script>.jpg';
  const item = { key: nasty, name: nasty, score: .5, metadata: { [nasty]: nasty, list: ['<b>', '</dd>'], deep: { a: ['<i>'] } }, thumbnail: '' };
  await page.route('**/v1/search', route => route.fulfill({ json: { items: 1, hits: [item], took_ms: 1 } }));
  await open(page, `?q=${encodeURIComponent(nasty)}&folder=${encodeURIComponent(nasty)}`);
  await page.locator('.tile a').click();
  await page.locator('#side').waitFor();
  assert.equal(await page.textContent('#name'), nasty);
  assert.ok((await page.textContent('.facts')).includes('</dd>'));
  assert.equal(await page.locator('#side .facts img, #status img, #status script').count(), 0);
  const blocked = await page.evaluate(async () => {
    const violations = [];
    addEventListener('securitypolicyviolation', event => violations.push(event.effectiveDirective));
    const script = document.createElement('script');
    script.textContent = 'window.hit = 1';
    document.body.append(script);
    const button = document.createElement('button');
    button.setAttribute('onclick', 'window.hit = 1');
    document.body.append(button);
    button.click();
    const style = document.createElement('style');
    style.textContent = 'body { opacity: 0 }';
    document.head.append(style);
    await fetch('https://example.com/').catch(() => {});
    await new Promise(done => setTimeout(done, 100));
    return { violations, hit: window.hit, opacity: getComputedStyle(document.body).opacity };
  });
  assert.equal(blocked.hit, undefined);
  assert.equal(blocked.opacity, '1');
  for (const directive of ['script-src-elem', 'script-src-attr', 'style-src-elem', 'connect-src']) {
    assert.ok(blocked.violations.includes(directive), `${directive} in ${blocked.violations}`);
  }
}, { expected: /Content Security Policy|status of 404/ });
