import { access, readFile } from 'node:fs/promises';
import { beforeAll, describe, expect, it } from 'vitest';
import { describeConfig, readConfig } from '../../src/config.ts';
import { at, type Mapping, readYaml } from './files.ts';

let services: Record<string, Mapping>;
let example: Record<string, string>;

beforeAll(async () => {
  const [compose] = await readYaml('docker-compose.yml');
  services = at(compose, 'services') as Record<string, Mapping>;
  const lines = (await readFile('deploy/compose.env.example', 'utf8')).split('\n');
  example = Object.fromEntries(lines.filter((line) => /^\w+=/.test(line)).map((line) => line.split(/=(.*)/)));
});

/** Puts values of .env in, as `docker compose` does for `${NAME:-default}`. */
function interpolate(text: string, values: Record<string, string>): string {
  return text.replace(/\$\{(\w+)(?::-([^}]*))?\}/g, (_all, name: string, fallback = '') => values[name] || fallback);
}

function environmentOf(service: string, values: Record<string, string>): Record<string, string> {
  const environment = at(services[service], 'environment') as Record<string, string | number>;
  return Object.fromEntries(
    Object.entries(environment).map(([name, value]) => [name, interpolate(String(value), values)]),
  );
}

const filledIn = {
  MODEL_API_KEY: 'key',
  MODEL_NAME: 'model',
  TOKEN_ISSUER: 'https://identity.example.com/',
  TOKEN_JWKS_URL: 'https://identity.example.com/keys',
};

describe('docker-compose.yml', () => {
  it.each(['api', 'worker'])('gives the %s settings that it starts with, and none that it does not know', (service) => {
    const environment = environmentOf(service, { ...example, ...filledIn });
    expect(() => readConfig(environment)).not.toThrow();
    const known = describeConfig().map(({ name }) => name);
    expect(Object.keys(environment).filter((name) => !known.includes(name))).toEqual([]);
  });

  it('says by name what is missing when .env was not filled in', () => {
    expect(() => readConfig(environmentOf('api', {}))).toThrow(/MODEL_API_KEY[\s\S]*TOKEN_ISSUER/);
  });

  it('takes from .env what the example names, and nothing else that has no default', async () => {
    const text = await readFile('docker-compose.yml', 'utf8');
    const used = new Set([...text.matchAll(/\$\{(\w+)/g)].map(([, name]) => String(name)));
    expect(Object.keys(example).filter((name) => !used.has(name))).toEqual([]);
    const withoutDefault = [...text.matchAll(/\$\{(\w+):-\}/g)].map(([, name]) => String(name));
    const optional = ['TOKEN_PUBLIC_KEY'];
    expect(withoutDefault.filter((name) => !(name in example) && !optional.includes(name))).toEqual([]);
  });

  it('pins every image, checks every server, limits everything, and publishes to this machine only', () => {
    for (const [name, service] of Object.entries(services)) {
      const image = String(service['image']);
      expect(image, name).toMatch(/^(retinue:local|[\w./-]+:v?\d+\.\d+[\w.-]*)$/);
      expect(at(service, 'deploy', 'resources', 'limits', 'memory'), name).toBeDefined();
      expect(at(service, 'healthcheck', 'test') !== undefined || name === 'migrate', name).toBe(true);
      for (const port of (service['ports'] ?? []) as string[]) {
        expect(port, name).toMatch(/^127\.0\.0\.1:/);
      }
    }
  });

  it('confines what is ours: no root, no capabilities, nothing written', async () => {
    for (const name of ['migrate', 'api', 'worker']) {
      expect(services[name]).toMatchObject({
        read_only: true,
        cap_drop: ['ALL'],
        security_opt: ['no-new-privileges:true'],
      });
    }
    const stages = (await readFile('Dockerfile', 'utf8')).split(/^FROM /m).slice(1);
    expect(stages.length).toBeGreaterThan(2);
    expect(stages.at(-1)).toMatch(/^USER 1000:1000$/m);
    for (const stage of stages) {
      expect(stage.split('\n')[0]).toMatch(/^node:24\.\d+\.\d+-alpine/);
    }
  });

  it('starts API and worker after the migrations, and gives them time to stop', () => {
    for (const [name, factor] of [
      ['api', 2],
      ['worker', 3],
    ] as const) {
      expect(at(services[name], 'depends_on', 'migrate', 'condition')).toBe('service_completed_successfully');
      const { SHUTDOWN_TIMEOUT } = readConfig(environmentOf(name, { ...example, ...filledIn }));
      const grace = Number.parseInt(String(services[name]?.['stop_grace_period']), 10) * 1_000;
      expect(grace).toBeGreaterThanOrEqual(SHUTDOWN_TIMEOUT * factor);
    }
  });

  it('runs programs and mounts folders that exist', async () => {
    for (const [name, service] of Object.entries(services)) {
      const script = name === 'migrate' || name === 'api' || name === 'worker' ? at(service, 'command', 0) : null;
      const mounts = ((service['volumes'] ?? []) as string[]).filter((mount) => mount.startsWith('./'));
      for (const path of [...(script ? [String(script)] : []), ...mounts.map((mount) => String(mount.split(':')[0]))]) {
        await expect(access(path), `${name}: ${path}`).resolves.toBeUndefined();
      }
    }
  });
});
