// A running `bifocal serve` against OpenAI's client for Node:
//   npm install openai && node scripts/check-serve-node.mjs http://127.0.0.1:8080 samples/photos/images/000000012280.jpg
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import OpenAI from "openai";

const [url, picture] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: process.env.BIFOCAL_API_KEY ?? "none", maxRetries: 0 });
const near = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);

const models = (await client.models.list()).data;
assert.equal(models.length, 1);
const model = models[0].id;
const plain = await client.embeddings.create({ model, input: "a dog on the beach" });
const row = plain.data[0].embedding;
assert.equal(row.length, models[0].dimensions);
assert.ok(Math.abs(near(row, row) - 1) < 1e-5);
assert.ok(plain.usage.total_tokens > 0);
for (const encoding_format of ["float", "base64"]) {
  const same = (await client.embeddings.create({ model, input: ["a dog on the beach", "a cat"], encoding_format })).data;
  const first = typeof same[0].embedding === "string"
    ? Array.from(new Float32Array(Uint8Array.from(Buffer.from(same[0].embedding, "base64")).buffer))
    : same[0].embedding;
  assert.equal(same.length, 2);
  assert.ok(near(first, row) > 0.99999);
}
assert.equal((await client.embeddings.create({ model, input: [[1, 2, 3], [4]] })).data.length, 2);
await assert.rejects(client.embeddings.create({ model, input: "a", dimensions: row.length + 1 }), (error) => {
  assert.ok(error instanceof OpenAI.UnprocessableEntityError);
  assert.deepEqual([error.param, error.code], ["dimensions", "invalid_field"]);
  return true;
});
const uri = `data:image/jpeg;base64,${readFileSync(picture).toString("base64")}`;
const image = await client.embeddings.create({ model, input: [uri], modality: "image" });
assert.equal(image.data[0].embedding.length, row.length);
console.log("openai for Node ok");
