#!/usr/bin/env bash
# Builds kube-apiserver and etcd from their Go modules (six minutes on two cores, once), starts them on loopback and
# holds against them what the tests otherwise hold against a double or a schema: the renders of the chart, the rights
# it grants, and tests/it/real_api_server.rs. No kubelet: no pod runs. `./test --long kubernetes` calls this. Needs Go
# and openssl.
set -euo pipefail
cd "$(dirname "$0")/../.."

kubernetes=1.34.1 etcd=3.6.4 port=16443
folder=$PWD/target/api-server
run=$(mktemp -d)
servers=()
stop() {
  [ ${#servers[@]} = 0 ] || kill "${servers[@]}" 2>/dev/null || true
  wait
  rm -rf "$run"
}
trap stop EXIT

export GOFLAGS=-mod=mod GOWORK=off
build() {
  local dir
  rm -rf "$folder"
  mkdir -p "$folder/etcd"
  # Published for others to build, except that its own parts are named by path: those are published too.
  dir=$(cd / && go mod download -json "k8s.io/kubernetes@v$kubernetes" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
  cp -r "$dir" "$folder/kubernetes"
  chmod -R u+w "$folder/kubernetes"
  (
    cd "$folder/kubernetes"
    rm -rf go.work go.work.sum vendor
    sed -i -E -e '/=> \.\/staging/d' -e "s#^(\s*k8s\.io/\S+) v0\.0\.0(\s|\$)#\1 v0.${kubernetes#1.}\2#" go.mod
    go build -trimpath -ldflags='-s -w' -o "$folder/kube-apiserver" ./cmd/kube-apiserver
  )
  rm -rf "$folder/kubernetes"
  (
    cd "$folder/etcd"
    printf 'module etcd\n\ngo 1.24\n\nrequire go.etcd.io/etcd/server/v3 v%s\n' $etcd >go.mod
    printf 'package main\n\nimport (\n\t"os"\n\n\t"go.etcd.io/etcd/server/v3/etcdmain"\n)\n\nfunc main() { etcdmain.Main(os.Args) }\n' >main.go
    go mod tidy
    go build -trimpath -ldflags='-s -w' -o ../etcd-server .
  )
  echo "$kubernetes $etcd" >"$folder/installed"
}
[ "$(cat "$folder/installed" 2>/dev/null)" = "$kubernetes $etcd" ] || build

kubeconfig() { # NAME TOKEN
  cat >"$run/$1.yaml" <<END
apiVersion: v1
kind: Config
clusters: [{ name: own, cluster: { server: "https://127.0.0.1:$port", certificate-authority: "$run/certs/apiserver.crt" } }]
users: [{ name: own, user: { token: $2 } }]
contexts: [{ name: own, context: { cluster: own, user: own, namespace: default } }]
current-context: own
END
}
admin=$(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n')
least=$(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n')
printf '%s,admin,1,"system:masters"\n%s,tollgate-least,2\n' "$admin" "$least" >"$run/tokens.csv"
kubeconfig admin "$admin"
kubeconfig least "$least"
openssl genrsa -out "$run/accounts.key" 2048 2>/dev/null

client=http://127.0.0.1:$((port + 1)) peer=http://127.0.0.1:$((port + 2))
"$folder/etcd-server" --data-dir "$run/etcd" --listen-client-urls $client --advertise-client-urls $client \
  --listen-peer-urls $peer --initial-advertise-peer-urls $peer --initial-cluster default=$peer >"$run/etcd.log" 2>&1 &
servers+=($!)
# No accounts: nobody makes the one that pods have by default, and pods would be refused.
"$folder/kube-apiserver" --etcd-servers=$client --secure-port=$port --bind-address=127.0.0.1 \
  --advertise-address=127.0.0.1 --cert-dir="$run/certs" --token-auth-file="$run/tokens.csv" --authorization-mode=RBAC \
  --service-account-issuer=https://kubernetes.default --service-account-key-file="$run/accounts.key" \
  --service-account-signing-key-file="$run/accounts.key" --service-cluster-ip-range=10.0.0.0/24,fd00:1::/112 \
  --disable-admission-plugins=ServiceAccount --endpoint-reconciler-type=none >"$run/api.log" 2>&1 &
servers+=($!)

target/python/bin/python3 tests/kubernetes/real.py target/kubernetes/helm "$run/admin.yaml" "$run/least.yaml" || {
  tail -5 "$run/api.log" >&2
  exit 1
}
TOLLGATE_TEST_KUBECONFIG=$run/admin.yaml cargo test --quiet --test it real_api_server::
