"""The guide's steps for Prometheus and Grafana: they add to what is there, change nothing the second time, and can be undone."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from dyrygentd.daemon.example import example
from tests.support.prometheus import promtool

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "grafana/README.md").read_text()

# As in Debian's package, comments left out here and there.
DEBIAN = """\
# Sample config for Prometheus.

global:
  scrape_interval:     15s
  evaluation_interval: 15s

# Alertmanager configuration
alerting:
  alertmanagers:
  - static_configs:
    - targets: ['localhost:9093']

# Load rules once and periodically evaluate them according to the global 'evaluation_interval'.
rule_files:
  # - "first_rules.yml"
  # - "second_rules.yml"

scrape_configs:
  # The job name is added as a label `job=<job_name>` to any timeseries scraped from this config.
  - job_name: 'prometheus'

    scrape_interval: 5s
    static_configs:
      - targets: ['localhost:9090']

  - job_name: node
    static_configs:
      - targets: ['localhost:9100']
"""


def _do(name: str, root: Path) -> None:
    """Do the marked steps of the guide below another root, without what needs a network, a daemon or systemd."""
    found = re.search(rf"(?ms)^<!-- host: {name} -->\n```sh\n(.*?)^```", GUIDE)
    assert found is not None
    steps = re.sub(r"(?m)^(curl|promtool|sudo systemctl|test -e /etc/prometheus) .*\n", "", found[1])
    steps = re.sub(r" && sudo systemctl .*", "", steps).replace("sudo ", "")
    steps = re.sub(r"(?<![\w.])/(etc|var)/", rf"{root}/\1/", steps)
    subprocess.run(["bash", "-euo", "pipefail", "-c", steps], cwd=ROOT, check=True, timeout=60)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The root of a host that has Debian's Prometheus, and Grafana."""
    for directory in ("prometheus", "dyrygentd", "grafana/provisioning/dashboards", "grafana/provisioning/datasources"):
        (tmp_path / "etc" / directory).mkdir(parents=True)
    (tmp_path / "etc/prometheus/prometheus.yml").write_text(DEBIAN)
    return tmp_path


def test_prometheus_is_added_to(root: Path) -> None:
    """The job and the rules come to those that are there, once; what it was is kept."""
    path = root / "etc/prometheus/prometheus.yml"
    _do("prometheus", root)
    once = path.read_text()
    _do("prometheus", root)
    assert path.read_text() == once
    assert path.with_name("prometheus.yml.before-dyrygentd").read_text() == DEBIAN
    before, after = yaml.safe_load(DEBIAN), yaml.safe_load(once)
    assert after["rule_files"] == ["dyrygentd-alerts.yml"]
    assert [job["job_name"] for job in after["scrape_configs"]] == ["dyrygentd", "prometheus", "node"]
    assert after["scrape_configs"][1:] == before["scrape_configs"]
    assert (after["global"], after["alerting"]) == (before["global"], before["alerting"])


def test_prometheus_accepts_it(root: Path) -> None:
    """Promtool finds the configuration and the rules right."""
    _do("prometheus", root)
    assert "SUCCESS" in promtool("check", "config", str(root / "etc/prometheus/prometheus.yml"))


def test_job_is_the_one_of_the_example() -> None:
    """What is added is what the whole configuration has."""
    added = yaml.safe_load((ROOT / "grafana/prometheus/scrape.yml").read_text())
    assert added == yaml.safe_load((ROOT / "grafana/prometheus/prometheus.yml").read_text())["scrape_configs"]


def test_listen_is_set_once(root: Path) -> None:
    """The address comes to where its key is, not behind the last table, and a second time changes nothing."""
    path = root / "etc/dyrygentd/dyrygentd.toml"
    path.write_text(example() + '\n[pools]\n"drain@*" = 2\n')
    _do("listen", root)
    once = path.read_text()
    assert '\nlisten = "127.0.0.1:9465"\n' in once
    _do("listen", root)
    assert path.read_text() == once


def test_dashboards_are_copied_once(root: Path) -> None:
    """A second time nests nothing, and a data source that is there is left alone."""
    dashboards = root / "var/lib/grafana/dashboards/dyrygentd"
    for _ in range(2):
        _do("grafana", root)
    assert {path.name for path in dashboards.iterdir()} == {path.name for path in (ROOT / "grafana/dashboards").iterdir()}
    sources = root / "etc/grafana/provisioning/datasources"
    assert [path.name for path in sources.iterdir()] == ["dyrygentd.yml"]
    sources.joinpath("dyrygentd.yml").rename(sources / "own.yml")
    _do("grafana", root)
    assert [path.name for path in sources.iterdir()] == ["own.yml"]
