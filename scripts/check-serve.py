#!/usr/bin/env python3
"""A running `bifocal serve` against the clients that people use, and against requests that nobody should send.

    bifocal serve --store S --chat models/smollm2 --listen 127.0.0.1:8080 &      # --chat may be left out
    pip install openai cohere numpy schemathesis
    scripts/check-serve.py http://127.0.0.1:8080 --picture samples/photos/images/000000012280.jpg

OpenAI's Python client (string, list, tokens, float, base64, pictures; talking, whole and piece by piece), Cohere's client, and schemathesis on /openapi.json: no answer of 5xx, and every
answer as the document describes it. Ends with 1 when something is not as it should be.
"""
import argparse
import base64
import json
import subprocess
import sys
import urllib.request

import cohere
import numpy as np
import openai


def near(a, b):
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--picture", required=True)
    parser.add_argument("--key", default="none")
    parser.add_argument("--examples", type=int, default=100, help="for each operation, by schemathesis")
    args = parser.parse_args()
    uri = "data:image/jpeg;base64," + base64.b64encode(open(args.picture, "rb").read()).decode()
    client = openai.OpenAI(base_url=args.url + "/v1", api_key=args.key, max_retries=0)
    create = client.embeddings.create

    models = client.models.list().data
    talkers = [model for model in models if getattr(model, "chat", False)]
    assert len(models) == 1 + len(talkers), models
    model = models[0]
    assert client.models.retrieve(model.id).id == model.id
    one = create(model=model.id, input="a dog on the beach")
    assert len(one.data) == 1 and len(one.data[0].embedding) == model.dimensions
    assert one.usage.prompt_tokens == one.usage.total_tokens > 0
    row = one.data[0].embedding
    assert abs(np.linalg.norm(row) - 1) < 1e-5
    floats = create(model=model.id, input="a dog on the beach", encoding_format="float").data[0].embedding
    assert near(row, floats) > 0.999999
    texts = ["a dog on the beach"] + [f"text number {i}" for i in range(150)]
    many = create(model=model.id, input=texts).data
    assert [d.index for d in many] == list(range(151)) and near(many[0].embedding, row) > 0.99999
    for dimensions in (1, model.dimensions + 1):
        try:
            create(model=model.id, input="a", dimensions=dimensions)
        except openai.UnprocessableEntityError as error:
            assert error.param == "dimensions" and error.code == "invalid_field", error.body
        else:
            print(f"note: the model may be cut to {dimensions}")
    try:
        create(model=model.id, input=[])
    except openai.UnprocessableEntityError as error:
        assert error.type == "invalid_request_error", error.body
    else:
        raise AssertionError("an empty list was accepted")
    tokens = create(model=model.id, input=[[1, 2, 3], [4]]).data
    assert len(tokens) == 2
    picture = create(model=model.id, input=[uri], extra_body={"modality": "image"}).data[0].embedding
    messages = client.post("/embeddings", cast_to=openai.types.CreateEmbeddingResponse, body={
        "model": model.id, "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": uri}}]}]})
    assert near(messages.data[0].embedding, picture) > 0.99999
    for talker in talkers:
        text = {"type": "text", "text": "What do you see?"}
        seen = [{"type": "image_url", "image_url": {"url": uri}}] if "image" in talker.modalities else []
        ask = {"model": talker.id, "messages": [{"role": "user", "content": seen + [text]}], "max_tokens": 24}
        whole = client.chat.completions.create(**ask)
        pieces = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
        said = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
        assert said.strip() == whole.choices[0].message.content and pieces[-1].usage == whole.usage, (said, whole)
        print(f"{talker.id} says {said.strip()!r}")
    print("openai", openai.__version__, "ok")

    co = cohere.ClientV2(api_key=args.key, base_url=args.url)
    texts = co.embed(model=model.id, texts=["a dog on the beach"], input_type="search_query", embedding_types=["float", "int8"])
    assert near(texts.embeddings.float_[0], row) > 0.99999 and near(texts.embeddings.int8[0], row) > 0.999
    images = co.embed(model=model.id, images=[uri], input_type="image", embedding_types=["float"])
    assert near(images.embeddings.float_[0], picture) > 0.99999
    print("cohere", cohere.__version__, "ok")

    if model.store:
        body = json.dumps({"image": uri, "k": 1}).encode()
        headers = {"content-type": "application/json", "authorization": f"Bearer {args.key}"}
        found = json.load(urllib.request.urlopen(urllib.request.Request(args.url + "/v1/search", body, headers)))
        print("search: the picture's best is", found["hits"][0]["name"], round(found["hits"][0]["score"], 4))

    command = ["schemathesis", "run", args.url + "/openapi.json", "--checks", "not_a_server_error,response_schema_conformance,status_code_conformance,content_type_conformance",
               "--max-examples", str(args.examples), "--phases", "examples,coverage,fuzzing", "-H", f"Authorization: Bearer {args.key}"]
    print(" ".join(command), flush=True)
    sys.exit(subprocess.run(command).returncode)


if __name__ == "__main__":
    main()
