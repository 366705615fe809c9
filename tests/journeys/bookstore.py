"""The bookstore as manifests: its workloads, its services, and rules to put in force and take away."""

# name of a workload -> namespace, service account, labels, Deployment that it takes its probes from
WORKLOADS = {
    "buyer": ("bookbuyer", "bookbuyer", "{app: bookbuyer}", ""),
    "buyer-2": ("bookbuyer", "bookbuyer", "{app: bookbuyer}", ""),
    "thief": ("bookthief", "bookthief", "{app: bookthief}", ""),
    "store-v1": ("bookstore", "bookstore", "{app: bookstore, version: v1}", "store"),
    "store-v2": ("bookstore", "bookstore-v2", "{app: bookstore, version: v2}", "store"),
    "six": ("bookstore", "six", "{app: six}", ""),
    "mysql": ("bookwarehouse", "mysql", "{app: mysql}", ""),
}


def document(version, kind, name, namespace, spec):
    return f"\n---\napiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"


def workload(name, namespace, account, labels, address, template):
    template = f", template: {template}" if template else ""
    spec = f'{{serviceAccount: {account}, labels: {labels}, addresses: ["{address}"], netns: {name}{template}}}'
    return document("edgemesh.io/v1alpha1", "Workload", name, namespace, spec)


def service(name, selector, ports, namespace="bookstore"):
    return document("v1", "Service", name, namespace, f"{{selector: {selector}, ports: {ports}}}")


def target(name, namespace, account, source, kind, route):
    space, _, source = source.rpartition("/")
    spec = (
        f"{{destination: {{kind: ServiceAccount, name: {account}, namespace: {namespace}}}, rules: [{{kind: {kind}, name: {route}}}],"
        f" sources: [{{kind: ServiceAccount, name: {source}, namespace: {space or source}}}]}}"
    )
    return document("access.smi-spec.io/v1alpha3", "TrafficTarget", name, namespace, spec)


def mesh_config(traffic):
    return document(
        "config.openservicemesh.io/v1alpha2",
        "MeshConfig",
        "osm-mesh-config",
        "osm-system",
        f"{{traffic: {{{traffic}}}}}",
    )


def http(source, account, namespace="bookstore"):
    """The service account `source` (NAME of the namespace NAME, or NAMESPACE/NAME) may GET and POST under /books."""
    return target(f"http-{source}-{account}".replace("/", "-"), namespace, account, source, "HTTPRouteGroup", "books")


def tcp(source, account, port, namespace="bookstore"):
    """It may send anything to this port."""
    name = f"tcp-{source}-{account}-{port}"
    route = document("specs.smi-spec.io/v1alpha4", "TCPRoute", name, namespace, f"{{matches: {{ports: [{port}]}}}}")
    return target(name, namespace, account, source, "TCPRoute", name) + route


def split(first, second, one="bookstore-v1", other="bookstore-v2"):
    backends = f"[{{service: {one}, weight: {first}}}, {{service: {other}, weight: {second}}}]"
    spec = f"{{service: bookstore.bookstore, backends: {backends}}}"
    return document("split.smi-spec.io/v1alpha4", "TrafficSplit", "split", "bookstore", spec)


STRICT = mesh_config("enablePermissiveTrafficPolicyMode: false")
PERMISSIVE = mesh_config("enablePermissiveTrafficPolicyMode: true")
NO_EGRESS = mesh_config("enableEgress: false")

PORTS = (
    "[{name: web, port: 14001, appProtocol: http}, {name: chat, port: 8080, appProtocol: http},"
    " {name: raw, port: 9000, appProtocol: tcp}, {name: unsaid, port: 7000}]"
)
PROBES = "livenessProbe: {httpGet: {path: /healthz, port: 14001}}, readinessProbe: {tcpSocket: {port: 9000}}"
SERVICES = (
    document(
        "apps/v1",
        "Deployment",
        "store",
        "bookstore",
        f"{{template: {{spec: {{containers: [{{name: store, {PROBES}}}]}}}}}}",
    )
    + service("bookstore", "{app: bookstore}", PORTS)
    + service("bookstore-v1", "{version: v1}", PORTS)
    + service("bookstore-v2", "{version: v2}", PORTS)
    + service("nobody", "{version: v9}", PORTS)
    + service("mysql", "{app: mysql}", "[{name: sql, port: 3306, appProtocol: tcp}]", "bookwarehouse")
)
ROUTES = document(
    "specs.smi-spec.io/v1alpha4",
    "HTTPRouteGroup",
    "books",
    "bookstore",
    "{matches: [{name: books, pathRegex: /books.*, methods: [GET, POST]}]}",
)
