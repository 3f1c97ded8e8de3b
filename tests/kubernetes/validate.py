"""Validates rendered manifests strictly: an unknown or misspelt field is an error.

    validate.py objects CRDS VERSION[,VERSION…] FILE…    every object against the schemas of each version
    validate.py promql < EXPRESSIONS                     every line is PromQL

Kinds of Kubernetes by the schemas of kubernetes-validate; kinds of operators by their own
CustomResourceDefinitions, the YAML files of the folder CRDS. A kind without schema is an error too. The schemas of
Kubernetes do not say which words a field may have; ENUMS does for the fields the chart writes.
"""
import copy
import glob
import sys

import jsonschema
import kubernetes_validate
import promql_parser
import yaml

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

ENUMS = {
    "appProtocol": {"grpc", "http"},
    "dnsPolicy": {"ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"},
    "externalTrafficPolicy": {"Cluster", "Local"},
    "fsGroupChangePolicy": {"Always", "OnRootMismatch"},
    "imagePullPolicy": {"Always", "IfNotPresent", "Never"},
    "internalTrafficPolicy": {"Cluster", "Local"},
    "ipFamilyPolicy": {"PreferDualStack", "RequireDualStack", "SingleStack"},
    "pathType": {"Exact", "ImplementationSpecific", "Prefix"},
    "podManagementPolicy": {"OrderedReady", "Parallel"},
    "protocol": {"SCTP", "TCP", "UDP"},
    "restartPolicy": {"Always", "Never", "NotRequired", "OnFailure", "RestartContainer"},
    "trafficDistribution": {"PreferClose", "PreferSameNode", "PreferSameZone"},
    "whenUnsatisfiable": {"DoNotSchedule", "ScheduleAnyway"},
}


def wrong_words(value, path=""):
    """Fields with a word they may not have."""
    if isinstance(value, list):
        return [problem for part in value for problem in wrong_words(part, path)]
    if not isinstance(value, dict):
        return []
    found = [
        f"{path}.{key}: {word!r} is not one of {sorted(ENUMS[key])}"
        for key, word in value.items()
        if key in ENUMS and isinstance(word, str) and word not in ENUMS[key]
    ]
    return found + [problem for key, part in value.items() for problem in wrong_words(part, f"{path}.{key}")]


def closed(schema):
    """The schema with every object closed to fields it does not name, as `kubectl --validate=strict` reads it."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: closed(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema:
        return schema
    if "properties" in schema and schema.get("type") == "object":
        schema["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        schema.pop("type", None)
    return schema


def custom_kinds(folder):
    kinds = {}
    for path in glob.glob(folder + "/*.yaml"):
        with open(path) as file:
            definition = yaml.load(file, LOADER)["spec"]
        for version in definition["versions"]:
            schema = closed(copy.deepcopy(version["schema"]["openAPIV3Schema"]))
            schema["properties"]["metadata"] = {"type": "object"}
            key = (definition["group"] + "/" + version["name"], definition["names"]["kind"])
            kinds[key] = jsonschema.Draft202012Validator(schema)
    return kinds


def problems_of(document, version, custom):
    """The problems of one object with one version of Kubernetes."""
    validator = custom.get((document.get("apiVersion"), document.get("kind")))
    if validator is not None:
        return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]
    words = wrong_words(document)
    if words:
        return words
    try:
        used = kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.SchemaNotFoundError as error:
        return [error.message]
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message}"]
    return [] if used == version else [f"no schemas of {version}, only of {used}"]


def objects(crds, versions, paths):
    custom, count, bad = custom_kinds(crds), 0, 0
    for path in paths:
        with open(path) as file:
            documents = [document for document in yaml.load_all(file, LOADER) if document]
        for document in documents:
            for version in versions.split(","):
                count += 1
                for problem in problems_of(document, version, custom):
                    bad += 1
                    name = (document.get("metadata") or {}).get("name")
                    print(f"{path}: {document.get('kind')} {name}, Kubernetes {version}: {problem}")
    print(f"{count} validations, {bad} problems")
    return bad


def promql():
    count, bad = 0, 0
    for line in filter(None, map(str.strip, sys.stdin)):
        count += 1
        try:
            promql_parser.parse(line)
        except ValueError as error:
            bad += 1
            print(f"{line}: {error}")
    print(f"{count} expressions, {bad} problems")
    return bad


if __name__ == "__main__":
    found = promql() if sys.argv[1] == "promql" else objects(sys.argv[2], sys.argv[3], sys.argv[4:])
    sys.exit(1 if found else 0)
