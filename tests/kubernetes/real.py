"""Renders the chart with every values file of charts/tollgate/ci, has a real API server check each object strictly
(a dry run), then grants the Roles of the chart to somebody without any rights and looks at what that admits.

real.py HELM ADMIN_KUBECONFIG LEAST_KUBECONFIG
"""

import json
import pathlib
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request

import yaml

CHART = pathlib.Path("charts/tollgate")
RBAC = "rbac.authorization.k8s.io"


class User:
    """Asks the API server as the user of a kubeconfig."""

    def __init__(self, kubeconfig):
        config = yaml.safe_load(pathlib.Path(kubeconfig).read_text())
        cluster = config["clusters"][0]["cluster"]
        self.server, self.authority = cluster["server"], cluster["certificate-authority"]
        self.token = config["users"][0]["user"]["token"]

    def ask(self, method, path, body=None):
        """The status and the body."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.server + path, method=method, data=data, headers=headers)
        tls = ssl.create_default_context(cafile=self.authority)
        try:
            with urllib.request.urlopen(request, context=tls, timeout=20) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, {"message": error.read().decode(errors="replace")}


def until_ready(admin):
    deadline = time.monotonic() + 60
    while True:
        try:
            if admin.ask("GET", "/api/v1/namespaces/default")[0] == 200:
                return
        except (OSError, urllib.error.URLError):
            pass
        if time.monotonic() > deadline:
            sys.exit("the API server is not ready after a minute")
        time.sleep(0.2)


def group(version):
    return ("/apis/" if "/" in version else "/api/") + version


class Resources:
    """Where objects of a kind are; `None` for kinds the server does not know."""

    def __init__(self, admin):
        self.admin, self.known = admin, {}

    def path(self, thing):
        version = thing["apiVersion"]
        if version not in self.known:
            status, told = self.admin.ask("GET", group(version))
            listed = told["resources"] if status == 200 else []
            self.known[version] = {one["kind"]: one for one in listed if "/" not in one["name"]}
        resource = self.known[version].get(thing["kind"])
        if resource is None:
            return None
        namespace = thing["metadata"].get("namespace", "default")
        scope = f"/namespaces/{namespace}" if resource["namespaced"] else ""
        return f"{group(version)}{scope}/{resource['name']}"


def render(helm, values):
    done = subprocess.run(
        [helm, "template", "t", CHART, "--namespace", "default", "--values", values],
        check=True, capture_output=True, text=True,
    )
    return [thing for thing in yaml.safe_load_all(done.stdout) if thing]


def accepted(helm, admin):
    resources, count, unknown, refused = Resources(admin), 0, set(), []
    files = sorted((CHART / "ci").glob("*.yaml"))
    for values in files:
        for thing in render(helm, values):
            path = resources.path(thing)
            if path is None:
                unknown.add(thing["kind"])
                continue
            namespace = thing["metadata"].get("namespace", "default")
            admin.ask("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
            status, told = admin.ask("POST", f"{path}?dryRun=All&fieldValidation=Strict", thing)
            count += 1
            if status not in (200, 201):
                refused.append(f"{values.name}: {thing['kind']} {thing['metadata']['name']}: {told['message']}")
    print(f"{len(files)} values files: {count - len(refused)} of {count} objects accepted; "
          f"not of this server: {', '.join(sorted(unknown))}")
    return refused


def rights(helm, admin, least):
    asked = {
        "/api/v1/namespaces/default/configmaps?fieldSelector=metadata.name%3Dt-tollgate-agent-policies": (403, 200),
        "/api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=1"
        "&fieldSelector=metadata.name%3Dnot-the-policies": (403, 403),
        "/api/v1/namespaces/default/configmaps": (403, 403),
        "/api/v1/pods?fieldSelector=spec.nodeName%3Dn0": (403, 200),
        "/api/v1/namespaces": (403, 200),
        "/api/v1/secrets": (403, 403),
    }
    resources, wrong = Resources(admin), []
    look = lambda: {path: least.ask("GET", path)[0] for path in asked}
    before = look()
    for values in ["agent-watch.yaml", "agent-pods.yaml"]:
        for role in [one for one in render(helm, CHART / "ci" / values) if one["kind"] in ("Role", "ClusterRole")]:
            name = role["metadata"]["name"]
            binding = {
                "apiVersion": f"{RBAC}/v1", "kind": role["kind"] + "Binding", "metadata": {"name": name},
                "roleRef": {"apiGroup": RBAC, "kind": role["kind"], "name": name},
                "subjects": [{"apiGroup": RBAC, "kind": "User", "name": "tollgate-least"}],
            }
            for thing in (role, binding):
                status, told = admin.ask("POST", resources.path(thing), thing)
                if status != 201:
                    wrong.append(f"{thing['kind']} {name}: {told['message']}")
    # The server notices bindings after a moment.
    deadline = time.monotonic() + 20
    while (after := look()) != {path: granted for path, (_, granted) in asked.items()}:
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    for path, (none, granted) in asked.items():
        if (before[path], after[path]) != (none, granted):
            wrong.append(f"{path}: {before[path]} without and {after[path]} with the rights, not {none} and {granted}")
    print(f"{len(asked)} requests with and without the chart's rights")
    return wrong


def main():
    helm, admin, least = sys.argv[1], User(sys.argv[2]), User(sys.argv[3])
    until_ready(admin)
    wrong = accepted(helm, admin) + rights(helm, admin, least)
    sys.exit("\n".join(wrong) or None)


main()
