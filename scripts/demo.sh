#!/usr/bin/env bash
# From nothing to a search: trains on the samples, evaluates on what was held back, indexes the sample photos, searches in three languages.
# Run by `make demo`, which builds and fetches the encoders first. What is there already is used again.
set -euo pipefail
cd "$(dirname "$0")/.."
bifocal=${BIFOCAL:-target/release/bifocal}
say() { printf '\n\033[1m%s\033[0m\n' "$1"; }

say "1. Train: EfficientNet-Lite0 and Gemma-3-270M stay as they are, two small heads learn to bring them together"
"$bifocal" train recipes/demo.toml --out demo/run --resume

say "2. Index the sample photos"
"$bifocal" index --model demo/run/model --store demo/store samples/photos

for query in "boys playing baseball" "ein Fahrrad" "時計"; do
    say "3. Search: $query"
    "$bifocal" search --store demo/store -k 3 "$query"
done

cat <<EOF

That was one model and three languages. Next, with your own photos:
    $bifocal index  --model demo/run/model --store my-photos ~/Pictures
    $bifocal search --store my-photos "a dog on the beach"
    $bifocal search --store my-photos --image some-photo.jpg
    $bifocal eval retrieval --model demo/run/model --data samples/photos
EOF
