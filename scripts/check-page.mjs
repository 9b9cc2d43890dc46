#!/usr/bin/env node
// Checks the web page of `bifocal serve` in a real browser: indexes samples/photos, starts the binary, and runs crates/serve/tests/browser.
//
//     node scripts/check-page.mjs                        after `make demo`; needs Chromium and, once, npm
//     node scripts/check-page.mjs --screenshots docs/images
//
// Environment: BIFOCAL (the binary), BIFOCAL_MODEL (a bundle with both towers), CHROMIUM (the browser).
// Without a browser or npm it says so and ends with 0: there is nothing to check with.
import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const DRIVER = 'playwright-core@1.65.1';
const at = path => resolve(ROOT, path);
const option = name => { const i = process.argv.indexOf(name); return i < 0 ? null : process.argv[i + 1] };

function skip(reason) {
  console.log(`skipped: ${reason}`);
  process.exit(0);
}

function browser() {
  const names = process.env.CHROMIUM ? [process.env.CHROMIUM] : ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'];
  for (const name of names) {
    try { return execFileSync('sh', ['-c', 'command -v "$1"', 'sh', name], { encoding: 'utf8' }).trim() } catch { /* the next one */ }
  }
  return skip(`none of ${names.join(', ')} is there`);
}

/** The driver, from where node finds it or from target/, where npm puts it once. */
function driver() {
  const folder = at('target/check-page');
  const find = () => createRequire(join(folder, 'x.js'))('playwright-core');
  try { return find() } catch { /* not there yet */ }
  mkdirSync(folder, { recursive: true });
  try {
    execFileSync('npm', ['install', '--prefix', folder, '--no-save', '--no-audit', '--no-fund', '--loglevel=error', DRIVER], { stdio: 'inherit' });
  } catch (error) {
    return skip(`npm could not install ${DRIVER}: ${error.message}`);
  }
  return find();
}

const executablePath = browser();
const { chromium } = driver();
const bifocal = process.env.BIFOCAL ?? at('target/release/bifocal');
const model = process.env.BIFOCAL_MODEL ?? at('demo/run/model');
for (const [path, advice] of [[bifocal, 'cargo build --release'], [model, 'make demo']]) {
  if (!existsSync(path)) {
    console.error(`${path} is not there; run ${advice} first`);
    process.exit(2);
  }
}

const folder = mkdtempSync(join(tmpdir(), 'bifocal-page-'));
const store = join(folder, 'store');
const photos = at('samples/photos/images');
// of random weights: what it says means nothing, but it says it
const talker = at('crates/models/tests/fixtures/llava');
console.log('indexing samples/photos …');
try {
  execFileSync(bifocal, ['index', '--model', model, '--store', store, photos], { cwd: ROOT, stdio: ['ignore', 'ignore', 'inherit'] });
} catch (error) {
  rmSync(folder, { recursive: true });
  console.error(`indexing failed with ${error.status}; what it said is above`);
  process.exit(1);
}

/** Starts the server; gives its address once it is ready, and how to end it. */
function serve(env = {}) {
  const child = spawn(bifocal, ['serve', '--store', store, '--chat', talker, '--listen', '127.0.0.1:0'], { cwd: ROOT, env: { ...process.env, ...env }, stdio: ['ignore', 'ignore', 'pipe'] });
  const ended = new Promise(done => child.once('exit', done));
  const stop = async () => { child.kill('SIGTERM'); await ended };
  return new Promise((done, fail) => {
    let url;
    createInterface({ input: child.stderr }).on('line', line => {
      url ??= line.match(/http:\/\/[^/]+\//)?.[0];
      if (line.startsWith('ready')) done({ url, stop });
    });
    ended.then(code => fail(new Error(`bifocal serve ended with ${code} before it was ready`)));
  });
}

const server = await serve();
const chrome = await chromium.launch({ executablePath, args: ['--no-sandbox'] });
const { after } = await import('node:test');
const { setUp } = await import('../crates/serve/tests/browser/help.mjs');
setUp({ chrome, url: server.url, serve, photos, screenshots: option('--screenshots') && resolve(option('--screenshots')) });
after(async () => {
  await chrome.close();
  await server.stop();
  rmSync(folder, { recursive: true });
});
const only = option('--only');
const tests = at('crates/serve/tests/browser');
for (const file of readdirSync(tests).filter(name => name.endsWith('.mjs') && name !== 'help.mjs' && (!only || name.startsWith(only))).sort()) {
  await import(join(tests, file));
}
