import { Deployment } from 'kubernetes-models/apps/v1';
import { HorizontalPodAutoscaler } from 'kubernetes-models/autoscaling/v2';
import { Job } from 'kubernetes-models/batch/v1';
import { NetworkPolicy } from 'kubernetes-models/networking.k8s.io/v1';
import { PodDisruptionBudget } from 'kubernetes-models/policy/v1';
import { ConfigMap, Namespace, Service, ServiceAccount } from 'kubernetes-models/v1';
import { beforeAll, describe, expect, it } from 'vitest';
import { readConfig } from '../../src/config.ts';
import { at, listFiles, type Mapping, readYaml, type Value } from './files.ts';

const folder = 'deploy/kubernetes';
const kinds = {
  ConfigMap,
  Deployment,
  HorizontalPodAutoscaler,
  Job,
  Namespace,
  NetworkPolicy,
  PodDisruptionBudget,
  Service,
  ServiceAccount,
};

/** @throws Error when the manifest breaks the API's schema */
function validate(manifest: Mapping): void {
  const kind = kinds[manifest['kind'] as keyof typeof kinds];
  if (kind === undefined) {
    throw new Error(`no schema for ${String(manifest['kind'])}`);
  }
  new kind(structuredClone(manifest) as never).validate();
  expect(manifest['apiVersion']).toBe(kind.apiVersion);
}

/** Every value of a manifest by its path. */
function* leaves(value: Value, path: (string | number)[] = []): Generator<(string | number)[]> {
  if (typeof value !== 'object' || value === null) {
    yield path;
    return;
  }
  for (const [key, inner] of Object.entries(value)) {
    yield* leaves(inner, [...path, Array.isArray(value) ? Number(key) : key]);
  }
}

function replaced(value: Value, [key, ...rest]: (string | number)[], by: Value): Value {
  if (key === undefined) {
    return by;
  }
  const copy = structuredClone(value) as Mapping;
  copy[key] = replaced(copy[key] as Value, rest, by);
  return copy;
}

let manifests: Mapping[];
const find = (kind: string, name: string): Mapping => {
  const found = manifests.find((one) => one['kind'] === kind && at(one, 'metadata', 'name') === name);
  if (found === undefined) {
    throw new Error(`there is no ${kind} ${name}`);
  }
  return found;
};
const podOf = (workload: Mapping): Mapping => at(workload, 'spec', 'template', 'spec') as Mapping;
const containerOf = (workload: Mapping): Mapping => at(podOf(workload), 'containers', 0) as Mapping;
/** Environment of a workload: values of the settings, and a made-up value for each reference to a secret. */
function environmentOf(workload: Mapping): Record<string, string> {
  const settings = at(containerOf(workload), 'envFrom') === undefined ? {} : at(find('ConfigMap', 'retinue'), 'data');
  const secrets = (at(containerOf(workload), 'env') as Mapping[]).map((one) => {
    expect(at(one, 'valueFrom', 'secretKeyRef', 'key')).toBe(one['name']);
    const name = String(one['name']);
    if (name === 'SECRET_KEYS') {
      return [name, `one:${Buffer.alloc(32, 7).toString('base64')}`];
    }
    return [name, name === 'REDIS_URL' ? 'redis://r' : name.endsWith('_URL') ? 'postgres://u:p@h/d' : 'secret'];
  });
  return { ...(settings as Record<string, string>), ...Object.fromEntries(secrets) };
}

beforeAll(async () => {
  const files = (await listFiles(folder, '.yaml')).filter((path) => !path.endsWith('kustomization.yaml'));
  manifests = (await Promise.all(files.map(readYaml))).flat();
});

describe('the manifests', () => {
  it('keep to the schema of the Kubernetes API', () => {
    expect(manifests.length).toBeGreaterThan(10);
    for (const manifest of manifests) {
      validate(manifest);
    }
  });

  it('use no field that the schema does not know: it would be ignored without a word', () => {
    // What no schema looks at bears any value, so a value that fits nowhere finds unknown and misspelt fields.
    const unknown = manifests.flatMap((manifest) =>
      [...leaves(manifest)]
        .filter((path) => {
          try {
            validate(replaced(manifest, path, [[['wrong']]]) as Mapping);
            return true;
          } catch {
            return false;
          }
        })
        .map((path) => `${String(manifest['kind'])} ${path.join('.')}`),
    );
    expect(unknown).toEqual([]);
  });

  it('are all named by the kustomization', async () => {
    const [kustomization] = await readYaml(`${folder}/kustomization.yaml`);
    const named = (at(kustomization, 'resources') as string[]).map((name) => `${folder}/${name}`).sort();
    expect([...named, `${folder}/kustomization.yaml`].sort()).toEqual(await listFiles(folder, '.yaml'));
  });

  it.each(['api', 'worker'])('give the %s settings that it starts with, secrets by reference', (name) => {
    const environment = environmentOf(find('Deployment', `retinue-${name}`));
    const config = readConfig(environment);
    // A name that the service does not know would be ignored without a word.
    expect(Object.keys(environment).filter((setting) => !(setting in config))).toEqual([]);
    expect(Object.keys(at(find('ConfigMap', 'retinue'), 'data') as Mapping).join()).not.toMatch(
      /KEY\b|DATABASE|PASSWORD/,
    );
  });

  it.each([
    ['Deployment', 'retinue-api'],
    ['Deployment', 'retinue-worker'],
    ['Job', 'retinue-migrate'],
  ])('confine the pod of %s %s', (kind, name) => {
    const workload = find(kind, name);
    expect(at(podOf(workload), 'securityContext')).toMatchObject({
      runAsNonRoot: true,
      seccompProfile: { type: 'RuntimeDefault' },
    });
    expect(at(containerOf(workload), 'securityContext')).toEqual({
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ['ALL'] },
    });
    expect(at(containerOf(workload), 'resources', 'limits', 'memory')).toBeDefined();
    expect(podOf(workload)['automountServiceAccountToken']).toBe(false);
  });

  it.each(['api', 'worker'])('let the %s finish what it does before it is killed', (name) => {
    const workload = find('Deployment', `retinue-${name}`);
    const stop = Number(at(find('ConfigMap', 'retinue'), 'data', 'SHUTDOWN_TIMEOUT')) / 1_000;
    const pause = Number(at(containerOf(workload), 'lifecycle', 'preStop', 'sleep', 'seconds'));
    // As src/server.ts and src/worker.ts end themselves.
    const longest = stop * (name === 'api' ? 2 : 3) + pause;
    expect(podOf(workload)['terminationGracePeriodSeconds']).toBeGreaterThanOrEqual(longest);
    expect(at(workload, 'spec', 'strategy', 'rollingUpdate')).toEqual({ maxSurge: 1, maxUnavailable: 0 });
  });

  it.each(['api', 'worker'])('select the pods of the %s, and only them, wherever they are meant', (name) => {
    const labels = at(find('Deployment', `retinue-${name}`), 'spec', 'template', 'metadata', 'labels');
    expect(at(find('Deployment', `retinue-${name}`), 'spec', 'selector', 'matchLabels')).toEqual(labels);
    expect(at(find('PodDisruptionBudget', `retinue-${name}`), 'spec', 'selector', 'matchLabels')).toEqual(labels);
    expect(at(find('HorizontalPodAutoscaler', `retinue-${name}`), 'spec', 'scaleTargetRef', 'name')).toBe(
      `retinue-${name}`,
    );
  });

  it('open no more connections than Postgres has, also while new pods replace old ones', () => {
    const pool = Number(at(find('ConfigMap', 'retinue'), 'data', 'POOL_SIZE'));
    const pods = ['api', 'worker'].map(
      (name) => Number(at(find('HorizontalPodAutoscaler', `retinue-${name}`), 'spec', 'maxReplicas')) + 1,
    );
    const reservedForOwner = 5;
    // One more a process: the probe of its health has a connection of its own. 300 as in docker-compose.yml.
    expect(pods.reduce((sum, count) => sum + count, 0) * (pool + 1)).toBeLessThanOrEqual(300 - reservedForOwner);
  });

  it('offer users the API alone, and metrics to the monitoring namespace alone', () => {
    expect(at(find('Service', 'retinue-api'), 'spec', 'ports')).toEqual([
      { name: 'http', port: 80, targetPort: 'http' },
    ]);
    const ports = manifests
      .filter((one) => one['kind'] === 'NetworkPolicy')
      .flatMap((policy) => (at(policy, 'spec', 'ingress') ?? []) as Mapping[])
      .map((rule) => [
        at(rule, 'ports', 0, 'port'),
        at(rule, 'from', 0, 'namespaceSelector', 'matchLabels', 'kubernetes.io/metadata.name'),
      ]);
    expect(ports).toEqual([
      ['http', 'ingress-nginx'],
      ['metrics', 'monitoring'],
    ]);
  });
});
