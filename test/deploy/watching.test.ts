import { readFile } from 'node:fs/promises';
import { beforeAll, describe, expect, it } from 'vitest';
import { createMetrics } from '../../src/adapters/metrics.ts';
import { at, type Mapping, readYaml, type Value } from './files.ts';

/** Names of series that a scrape may show, each with its labels. */
const known = new Map<string, readonly string[]>();
let alerts: Mapping[];
let dashboard: Mapping;

/** Labels that Prometheus itself puts on every series. */
const everywhere = ['job', 'instance'];

beforeAll(async () => {
  const metrics = createMetrics();
  metrics.addProcess();
  for (const { name, kind, labels } of metrics.describe()) {
    for (const series of kind === 'histogram' ? [`${name}_bucket`, `${name}_sum`, `${name}_count`] : [name]) {
      known.set(series, [...labels, ...(series.endsWith('_bucket') ? ['le'] : [])]);
    }
  }
  const { text } = await metrics.render();
  for (const [, name] of text.matchAll(/^# TYPE ((?:process|nodejs)_\w+) /gm)) {
    known.set(String(name), []);
  }
  known.set('up', []);
  const [rules] = await readYaml('deploy/prometheus/alerts.yml');
  alerts = at(rules, 'groups', 0, 'rules') as Mapping[];
  dashboard = JSON.parse(await readFile('deploy/grafana/dashboards/retinue.json', 'utf8')) as Mapping;
});

const words = new Set('sum min max rate increase histogram_quantile absent by or and unless'.split(' '));

/** What an expression of PromQL names that no scrape shows. */
function faultsOf(expression: string): string[] {
  const withoutTexts = expression.replaceAll(/"[^"]*"/g, '""').replaceAll('$__rate_interval', '5m');
  const grouped = [...withoutTexts.matchAll(/\bby \(([^)]*)\)/g)].flatMap(([, labels]) => String(labels).split(/, */));
  const selectors = withoutTexts.replaceAll(/\bby \([^)]*\)/g, '').replaceAll(/\[\d+[smh]\]/g, '');
  const series = [...selectors.matchAll(/([a-z_]\w*)(\{[^}]*\})?/gi)]
    .map(([, name = '', labels = '']) => ({
      name,
      labels: [...labels.matchAll(/(\w+) *(?:=~|!~|!=|=)/g)].map(([, label]) => String(label)),
    }))
    .filter(({ name }) => !words.has(name));
  const of = (name: string): readonly string[] => [...(known.get(name) ?? []), ...everywhere];
  return [
    ...(series.length === 0 ? [`names no series: ${expression}`] : []),
    ...series.filter(({ name }) => !known.has(name)).map(({ name }) => `no such series: ${name}`),
    ...series.flatMap(({ name, labels }) =>
      labels.filter((label) => !of(name).includes(label)).map((label) => `${name} has no label ${label}`),
    ),
    ...grouped
      .filter((label) => !series.some(({ name }) => of(name).includes(label)))
      .map((label) => `nothing has the label ${label}: ${expression}`),
    ...((expression.match(/\(/g)?.length ?? 0) === (expression.match(/\)/g)?.length ?? 0)
      ? []
      : [`unbalanced: ${expression}`]),
  ];
}

function expressionsOf(value: Value): string[] {
  if (typeof value !== 'object' || value === null) {
    return [];
  }
  const own = !Array.isArray(value) && typeof value['expr'] === 'string' ? [value['expr']] : [];
  return [...own, ...Object.values(value).flatMap(expressionsOf)];
}

describe('alerts and dashboard', () => {
  it('name only series and labels that the service shows', () => {
    const expressions = [...expressionsOf(alerts), ...expressionsOf(dashboard)];
    expect(expressions.length).toBeGreaterThan(40);
    expect(expressions.flatMap(faultsOf)).toEqual([]);
  });

  it.each([
    ['a series that is not there', 'rate(retinue_requests_total[5m])', 'no such series: retinue_requests_total'],
    ['a label that is not there', 'retinue_errors_total{kind="x"}', 'retinue_errors_total has no label kind'],
    [
      'a group by nothing',
      'sum by (user) (retinue_errors_total)',
      'nothing has the label user: sum by (user) (retinue_errors_total)',
    ],
  ])('would be found to name %s', (_what, expression, fault) => {
    expect(faultsOf(expression)).toEqual([fault]);
  });

  it('lead from every alert to its own part of the runbooks, and from every part back', async () => {
    const titles = [...(await readFile('docs/runbooks.md', 'utf8')).matchAll(/^## (\w+)$/gm)].map(([, title]) =>
      String(title),
    );
    expect(alerts.map((alert) => alert['alert'])).toEqual(titles);
    for (const alert of alerts) {
      const name = String(alert['alert']);
      expect(at(alert, 'annotations', 'runbook')).toBe(`docs/runbooks.md#${name.toLowerCase()}`);
      expect(at(alert, 'annotations', 'summary')).toMatch(/\.$/);
      expect(['page', 'ticket']).toContain(at(alert, 'labels', 'severity'));
    }
  });

  it('ask the data source that is provisioned', async () => {
    const [source] = await readYaml('deploy/grafana/provisioning/datasources/prometheus.yml');
    const uid = at(source, 'datasources', 0, 'uid');
    const panels = (dashboard['panels'] as Mapping[]).filter((panel) => panel['type'] !== 'row');
    expect(panels.filter((panel) => at(panel, 'datasource', 'uid') !== uid)).toEqual([]);
  });
});
