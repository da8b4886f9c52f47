import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { runQuotaCommand, UsageError } from '../../prisma/quota.ts';
import { startTestService, type TestService, type TestUser } from '../service.ts';

let service: TestService;
let alice: TestUser;
let issuer: string;

beforeAll(async () => {
  service = await startTestService({ worker: false });
  alice = await service.user('alice');
  await alice.ask('{ viewer { id } }');
  const [row] = await service.database.owner(`SELECT issuer FROM users WHERE subject = 'alice'`);
  issuer = String(row?.['issuer']);
});
afterAll(() => service.stop());

const quota = (verb: string, ...rest: string[]) =>
  runQuotaCommand([verb, '--issuer', issuer, '--subject', 'alice', ...rest], service.database.ownerUrl);

const limitOf = async (user: TestUser, name: string): Promise<number> => {
  const { data } = await user.ask('{ viewer { usage { quotas { name limit } } } }');
  return data.viewer.usage.quotas.find((one: { name: string }) => one.name === name).limit;
};
const table = (agents: string, tokens: string) =>
  `agents            ${agents}\nsessions          default\nstored-bytes      default\n` +
  `concurrent-tasks  default\ntokens-per-day    ${tokens}\n`;

describe('the command for quotas', () => {
  it('sets limits of one user, which hold at once and leave the others and all other users as they were', async () => {
    const bob = await service.user('bob');
    const before = [await limitOf(alice, 'SESSIONS'), await limitOf(bob, 'AGENTS')];
    expect(await quota('set', '--agents', '7')).toBe(table('7', 'default'));
    expect(await quota('set', '--tokens-per-day', '9000000000')).toBe(table('7', '9000000000'));
    expect([await limitOf(alice, 'AGENTS'), await limitOf(alice, 'TOKENS_PER_DAY')]).toEqual([7, 9_000_000_000]);
    expect([await limitOf(alice, 'SESSIONS'), await limitOf(bob, 'AGENTS')]).toEqual(before);
    expect(await quota('show')).toBe(table('7', '9000000000'));
  });

  it('sets each of the quotas that there are', async () => {
    const { data } = await alice.ask('{ viewer { usage { quotas { name } } } }');
    const names = data.viewer.usage.quotas.map(({ name }: { name: string }) => name);
    const given = names.flatMap((name: string, place: number) => [
      `--${name.toLowerCase().replaceAll('_', '-')}`,
      String(place + 11),
    ]);
    await quota('set', ...given);
    const limits = await Promise.all(names.map((name: string) => limitOf(alice, name)));
    expect(limits).toEqual(names.map((_: string, place: number) => place + 11));
  });

  it('takes one limit back, or all', async () => {
    await quota('set', '--agents', '7', '--sessions', '8');
    expect(await quota('set', '--agents', 'default')).toContain('agents            default\nsessions          8\n');
    expect(await quota('clear')).toBe(table('default', 'default'));
    expect(await quota('show')).toBe(table('default', 'default'));
    expect(await limitOf(alice, 'AGENTS')).toBe(service.config.QUOTA_AGENTS);
  });

  it.each([
    { what: 'a verb', words: [], says: /`show`, `set` or `clear`/ },
    { what: 'one of the verbs', words: ['raise'], says: /`show`, `set` or `clear`/ },
    { what: 'an issuer', words: ['show', '--subject', 'a'], says: /^--issuer is missing/ },
    { what: 'a subject', words: ['show', '--issuer', 'i'], says: /^--subject is missing/ },
    {
      what: 'a limit to set',
      words: ['set', '--issuer', 'i', '--subject', 'a'],
      says: /at least one limit: --agents N/,
    },
    {
      what: 'no limit to show',
      words: ['show', '--issuer', 'i', '--subject', 'a', '--agents', '1'],
      says: /^--agents/,
    },
    { what: 'known options', words: ['show', '--user', 'a'], says: /'--user'/ },
    ...['-1', '1.5', '1e3', 'many', '', '9007199254740992'].map((number) => ({
      what: `a whole number, not "${number}"`,
      words: ['set', '--issuer', 'i', '--subject', 'a', `--stored-bytes=${number}`],
      says: /^--stored-bytes must be a whole number from 0/,
    })),
  ])('wants $what', async ({ words, says }) => {
    const refused = runQuotaCommand(words, service.database.ownerUrl);
    await expect(refused).rejects.toThrow(UsageError);
    await expect(refused).rejects.toThrow(says);
  });

  it('says what is wrong with a user that is not there, without a word about any', async () => {
    const asked = ['set', '--issuer', issuer, '--subject', 'nobody', '--agents', '1'];
    const failure = await runQuotaCommand(asked, service.database.ownerUrl).catch(String);
    expect(failure).toMatch(/No user has this --issuer and --subject/);
    expect(failure).not.toMatch(/nobody|alice/);
  });

  it("can't be used with a role of the service", async () => {
    const asked = ['set', '--issuer', issuer, '--subject', 'alice', '--agents', '1'];
    await expect(runQuotaCommand(asked, service.database.appUrl)).rejects.toThrow(/BYPASSRLS/);
  });

  it('ends with 2 and its usage when it is called wrongly, with 1 when it failed, else with 0', async () => {
    const run = (words: string[], url: string) =>
      promisify(execFile)(process.execPath, ['prisma/quota.ts', ...words], { env: { OWNER_DATABASE_URL: url } }).then(
        ({ stdout, stderr }) => ({ code: 0, stdout, stderr }),
        ({ code, stdout, stderr }) => ({ code, stdout, stderr }),
      );
    const show = (subject: string) => ['show', '--issuer', issuer, '--subject', subject];
    const [wrong, failed, done] = await Promise.all([
      run([], service.database.ownerUrl),
      run(show('nobody'), service.database.ownerUrl),
      run(show('alice'), service.database.ownerUrl),
    ]);
    expect(wrong).toMatchObject({ code: 2, stdout: '', stderr: expect.stringContaining('npm run quota --') });
    expect(failed).toMatchObject({ code: 1, stdout: '' });
    expect(failed.stderr).not.toMatch(/npm run|at .*\.ts/);
    expect(done).toEqual({ code: 0, stdout: expect.stringContaining('agents'), stderr: '' });
  });
});
