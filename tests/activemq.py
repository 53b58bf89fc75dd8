"""A real ActiveMQ Classic for the tests, with AMQP 1.0: fetched once into a cache, run on loopback, nothing left behind. Knows nothing of
what is tested on it.

Debian has the broker without its AMQP module, but the module's source: it is compiled against Debian's own jars. Where the machine has no
Java compiler, that comes from the machine's own suite, unpacked beside the broker.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import quoteattr

from lxml import etree

from debian import Suite, Unavailable, cached, own_suite, run
from server import BrokerServer, Login, environment_without

# Debian 13, with ActiveMQ 5.17.6. The suite before has no proton-j, which the AMQP module is written on; the one after has no ActiveMQ.
SUITE: Final = "trixie"
# The jars of each package that a broker takes which has AMQP, KahaDB and a configuration file, and nothing else.
JARS: Final = {
    "libactivemq-java": ("broker", "client", "console", "jaas", "kahadb-store", "openwire-legacy", "spring"),
    "libactivemq-protobuf-java": ("activemq-protobuf",),
    "libapache-qpid-proton-j-java": ("proton-j",),
    "libcommons-logging-java": ("commons-logging",),
    "libgeronimo-j2ee-management-1.1-spec-java": ("geronimo-j2ee-management-1.1-spec",),
    "libgeronimo-jms-1.1-spec-java": ("geronimo-jms_1.1_spec",),
    "libhawtbuf-java": ("hawtbuf",),
    "libslf4j-java": ("slf4j-api", "slf4j-simple"),
    "libspring-aop-java": ("spring3-aop",),
    "libspring-beans-java": ("spring3-beans",),
    "libspring-context-java": ("spring3-context",),
    "libspring-core-java": ("spring3-core",),
    "libspring-expression-java": ("spring3-expression",),
    "libxbean-java": ("xbean-spring",),
}
JAVA: Final = 11  # the oldest that ActiveMQ 5.17 runs on


# --- getting it ------------------------------------------------------------------------------------------------------------------


def activemq_root() -> Path:
    """The folder with ActiveMQ's jars and the classes of its AMQP module, fetched and compiled if it is not there. Raises Unavailable."""
    return cached(f"activemq-{SUITE}", _fetch)


def java(program: str = "java") -> str:
    """The machine's own `java` or `javac`, or one that is fetched. Raises Unavailable."""
    found = shutil.which(program)
    if found is not None and _is_new_enough(found):
        return found
    home = cached(f"jdk-{own_suite()}-{platform.machine()}", _fetch_jdk)
    return str(next(home.glob(f"usr/lib/jvm/*/bin/{program}")))


def _fetch(scratch: Path) -> Path:
    debian = Suite(SUITE, "ActiveMQ", scratch, sources=True)
    debian.unpack(JARS)
    made = scratch / "made"
    (made / "jars").mkdir(parents=True)
    for package, names in JARS.items():
        for name in names:
            jar = f"activemq-{name}.jar" if package == "libactivemq-java" else f"{name}.jar"
            shutil.copy(debian.root / "usr/share/java" / jar, made / "jars")  # behind a link there that has no version
    (made / "version").write_text((debian.root / "usr/share/java/activemq-broker.jar").resolve().stem.rpartition("-")[2])
    _compile(debian.source("activemq"), scratch / "module", made)
    return made


def _compile(archive: Path, module: Path, made: Path) -> None:
    """The AMQP module, as its own build does: the sources, and the files that tell the broker of it."""
    with tarfile.open(archive) as tar:
        wanted = [member for member in tar.getmembers() if "/activemq-amqp/src/main/" in member.name]
        tar.extractall(module, wanted, filter="data")
    (main,) = module.glob("*/activemq-amqp/src/main")
    shutil.copytree(main / "resources", made / "classes")
    sources = map(str, sorted(main.glob("java/**/*.java")))
    compiler = [java("javac"), "-nowarn", "-proc:none", "--release", str(JAVA), "-cp", f"{made}/jars/*", "-d", f"{made}/classes"]
    run([*compiler, *sources], module)


def _fetch_jdk(scratch: Path) -> Path:
    """A JDK for the libraries that this machine has. Its files of settings are links to where an installation has them."""
    debian = Suite(own_suite(), "Java", scratch)
    debian.unpack(debian.needed("default-jdk-headless", r"openjdk-\d+-j(dk|re)-headless"))
    for path in debian.root.rglob("*"):
        if path.is_symlink() and os.path.isabs(target := os.readlink(path)) and (inside := debian.root / target[1:]).exists():
            path.unlink()
            path.symlink_to(os.path.relpath(inside, path.parent))
    for modules in debian.root.glob("usr/lib/jvm/*/jmods"):  # a third of it, for those who link images of their own
        shutil.rmtree(modules)
    return debian.root


def _is_new_enough(program: str) -> bool:
    """Those before 9 do not know the option; what is called `java` may also be a placeholder that only says where to get it."""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    major = re.match(r"\w+ (\d+)", done.stdout)  # "openjdk 17.0.15 2025-04-15", "javac 17.0.15"
    return done.returncode == 0 and major is not None and int(major[1]) >= JAVA


# --- running it ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Account(Login):
    """A user of the broker, and the groups whose rights it has."""

    groups: tuple[str, ...] = ("users",)


ADMIN: Final = Account("admin", "secret")
AGENT: Final = Account("clacks-agent", "secret", ("agents",))

# Everything for everybody who has an account.
OPEN: Final = """
<authorizationEntry queue=">" read="agents,users" write="agents,users" admin="agents,users"/>
<authorizationEntry topic=">" read="agents,users" write="agents,users" admin="agents,users"/>
"""

# Memory for messages: half of the heap below. A full disk is not what is tested.
USAGE: Final = """
<systemUsage>
  <memoryUsage><memoryUsage limit="128 mb"/></memoryUsage>
  <storeUsage><storeUsage limit="1 gb"/></storeUsage>
  <tempUsage><tempUsage limit="1 gb"/></tempUsage>
</systemUsage>
"""

# A test's broker lives for seconds: what it would gain by the better compiler costs more. One that has no memory left would go on with the
# threads that have not asked for any.
QUICK: Final = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+ExitOnOutOfMemoryError")

# The elements of a broker stand in the order of its schema, which is that of the alphabet.
CONFIGURATION: Final = """\
<beans xmlns="http://www.springframework.org/schema/beans" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:schemaLocation="
    http://www.springframework.org/schema/beans http://www.springframework.org/schema/beans/spring-beans.xsd
    http://activemq.apache.org/schema/core http://activemq.apache.org/schema/core/activemq-core.xsd">
  <broker xmlns="http://activemq.apache.org/schema/core" {attributes}>
    <destinationPolicy><policyMap><policyEntries>{policies}</policyEntries></policyMap></destinationPolicy>
    <persistenceAdapter><kahaDB directory={data}/></persistenceAdapter>
    <plugins>
      {plugins}
      <jaasAuthenticationPlugin configuration="activemq"/>
      <authorizationPlugin><map><authorizationMap>
        <authorizationEntries>{rights}</authorizationEntries>
        <tempDestinationAuthorizationEntry>
          <tempDestinationAuthorizationEntry read="agents,users" write="agents,users" admin="agents,users"/>
        </tempDestinationAuthorizationEntry>
      </authorizationMap></map></authorizationPlugin>
    </plugins>
    <systemUsage>{usage}</systemUsage>
    <transportConnectors><transportConnector name="amqp" uri={connector}/></transportConnectors>
  </broker>
</beans>
"""

# Users can be added while the broker runs: that of the simple authentication plug-in are those of the start.
LOGIN: Final = """\
activemq {
    org.apache.activemq.jaas.PropertiesLoginModule required
        org.apache.activemq.jaas.properties.user="users.properties"
        org.apache.activemq.jaas.properties.group="groups.properties"
        reload="true";
};
"""


class ActiveMQ(BrokerServer[Account]):
    """One ActiveMQ broker.

    The rest is its configuration, as XML for the place named so in CONFIGURATION: `policies` are policy entries, `rights` authorization
    entries, `plugins` further plug-ins, `usage` the system usage. `attributes` are those of the broker element, `transport`
    options of the AMQP connector, `heap` is the size of Java's heap.
    """

    name = "ActiveMQ"

    def __init__(
        self,
        accounts: tuple[Account, ...] = (ADMIN, AGENT),
        *,
        policies: str = "",
        rights: str = OPEN,
        plugins: str = "",
        usage: str = USAGE,
        attributes: Mapping[str, Any] | None = None,
        transport: Mapping[str, Any] | None = None,
        heap: str = "256m",
        java_options: Sequence[str] = QUICK,
    ) -> None:
        self._root = activemq_root()
        self._java = java()
        super().__init__((self._root / "version").read_text(), accounts)
        self._options = [f"-Xmx{heap}", *java_options]
        # Without it what the broker writes waits for an acknowledgement of what it wrote before: 40 ms.
        options = "&".join(f"transport.{key}={value}" for key, value in {"tcpNoDelay": "true", **(transport or {})}.items())
        standing = {
            "brokerName": "clacks",
            "dataDirectory": self._folder / "data",
            "persistent": "true",
            "schedulerSupport": "false",
            "useJmx": "false",
            "useShutdownHook": "false",
        }
        text = CONFIGURATION.format(
            attributes=" ".join(f"{key}={quoteattr(str(value))}" for key, value in {**standing, **(attributes or {})}.items()),
            policies=policies,
            data=quoteattr(str(self._folder / "data")),
            plugins=plugins,
            rights=rights,
            usage=usage,
            connector=quoteattr(f"amqp://127.0.0.1:{self.port}?{options}"),
        )
        self._configure(text)

    def _configure(self, text: str) -> None:
        (self._folder / "activemq.xml").write_text(text)
        (self._folder / "login.config").write_text(LOGIN)
        self._write_accounts()

    def add_user(self, name: str, password: str, groups: tuple[str, ...] = ("users",)) -> None:
        self._accounts[name] = Account(name, password, groups)
        self._write_accounts()

    def remove_user(self, name: str) -> None:
        """It cannot connect any more; the connections it has stay."""
        self._accounts.pop(name, None)
        self._write_accounts()

    # --- how it is started ---

    def _launch(self) -> subprocess.Popen[bytes]:
        root, folder = self._root, self._folder
        program = [
            self._java,
            *self._options,
            f"-Djava.io.tmpdir={folder}",
            f"-Dactivemq.data={folder / 'data'}",
            f"-Djava.security.auth.login.config={folder / 'login.config'}",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-cp", f"{root / 'classes'}:{root / 'jars'}/*",
            "org.apache.activemq.console.command.ShellCommand", "start", f"xbean:file:{folder / 'activemq.xml'}",
        ]  # fmt: skip
        return self._spawn(program, environment_without("ACTIVEMQ_", "JAVA_", "JDK_", "_JAVA_"))

    def _has_started(self) -> bool:
        """The listener comes up before the broker says that it has started, which is what counts."""
        said = self.log[self._begun :]
        return f"Apache ActiveMQ {self.version}" in said and ") started\n" in said

    def _failure(self) -> str:
        return self.log[self._begun :][:8000]

    def _write_accounts(self) -> None:
        accounts = self._accounts.values()
        groups = sorted({group for account in accounts for group in account.groups})
        self._properties("users", {account.name: account.password for account in accounts})
        self._properties("groups", {group: ",".join(each.name for each in accounts if group in each.groups) for group in groups})

    def _properties(self, name: str, values: Mapping[str, str]) -> None:
        """A file that is read again at the next login: its time lies ahead of whatever the broker has seen."""
        path = self._folder / f"{name}.properties"
        draft = path.with_suffix(".draft")
        draft.write_text("".join(f"{_escaped(key)}={_escaped(value)}\n" for key, value in values.items()))
        os.utime(draft, (time.time() + 3600,) * 2)
        draft.rename(path)


# Who may have a reply queue and subscriptions: their names stand in the configuration.
USERS: Final = ("admin", "anna", "bert", "carl")


class DomainActiveMQ(ActiveMQ):
    """One with the configuration that clacks comes with, for some domains: a domain's name stands in it, so they are known at the start."""

    def __init__(self, domains: Sequence[str], edit: Callable[[str], str] = str, **options: Any) -> None:
        """`edit` changes the configuration."""
        super().__init__((AGENT,), **options)
        self.domains = list(domains)
        self._configure(edit(domain_configuration(self.domains, self.port)))
        self.add_user("admin", "secret")

    def add_user(self, name: str, password: str, groups: tuple[str, ...] = ("users",)) -> None:
        super().add_user(name, password, (*groups, name))


def domain_configuration(domains: Sequence[str], port: int) -> str:
    """docker/activemq.xml for these domains and USERS on a port of the tests: what names org.clacks stands there once for each of them."""
    tree = etree.parse(Path(__file__).resolve().parents[1] / "docker" / "activemq.xml", etree.XMLParser(remove_comments=True))
    for one in [*tree.iter("{*}compositeQueue", "{*}queue", "{*}policyEntry", "{*}authorizationEntry")]:
        parent, place = one.getparent(), one.getparent().index(one)
        parent.remove(one)
        text = etree.tostring(one, encoding="unicode", with_tail=False)
        for domain in domains:
            for user in USERS if "anna" in text else ("",):
                parent.insert(place, etree.fromstring(text.replace("org.clacks", domain).replace("anna", user)))
                place += 1
    broker = tree.find("{*}broker")
    namespace = etree.QName(broker).namespace
    plugins = broker.find("{*}plugins")
    plugins.insert(0, etree.SubElement(plugins, f"{{{namespace}}}statisticsBrokerPlugin"))
    statistics = {"queue": "ActiveMQ.Statistics.>", "read": "agents", "write": "agents", "admin": "agents"}
    etree.SubElement(next(tree.iter("{*}authorizationEntries")), f"{{{namespace}}}authorizationEntry", statistics)
    broker.set("schedulePeriodForDestinationPurge", "1000")
    for policy in tree.iter("{*}policyEntry"):
        if policy.get("gcInactiveDestinations"):
            policy.set("inactiveTimeoutBeforeGC", "5000")
            policy.set("expireMessagesPeriod", "1000")
    broker.set("useJmx", "false")
    broker.set("useShutdownHook", "false")
    for connector in tree.iter("{*}transportConnector"):
        connector.set("uri", re.sub(r"127\.0\.0\.1:\d+", f"127.0.0.1:{port}", connector.get("uri")))
    for limit in tree.iter("{*}storeUsage", "{*}tempUsage"):
        if limit.get("limit"):
            limit.set("limit", "1 gb")
    return etree.tostring(tree, encoding="unicode")


def _escaped(text: str) -> str:
    """As Java writes properties: what is no letter, digit or comma of ASCII as UTF-16 units."""
    units = text.encode("utf-16-be")
    pairs = (int.from_bytes(units[i : i + 2], "big") for i in range(0, len(units), 2))
    return "".join(chr(unit) if unit < 128 and (chr(unit).isalnum() or unit == 0x2C) else f"\\u{unit:04x}" for unit in pairs)


def main() -> int:
    """Fetch what the tests will ask for, so that no test's time-out has to cover a download or a compilation."""
    try:
        activemq_root()
        java()
    except Unavailable as error:
        print(f"The tests on ActiveMQ are left out: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
