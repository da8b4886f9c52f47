import { Writable } from 'node:stream';
import OpenAI from 'openai';
import { describe, expect, it } from 'vitest';
import { createLog } from '../../src/adapters/log.ts';
import { createDatabase, statement } from '../../src/adapters/postgres.ts';
import { createTestDatabase } from '../service.ts';

const secret = 'my-diary-entry';

/** What a log writes for one line. */
function written(write: (log: ReturnType<typeof createLog>) => void): string {
  let text = '';
  const destination = new Writable({
    write: (chunk, _encoding, done) => {
      text += String(chunk);
      done();
    },
  });
  write(createLog({ level: 'info', destination }));
  return text;
}

describe('the log', () => {
  it('tells of a failing row that it failed, and not what stands in it', async () => {
    const database = await createTestDatabase();
    const pool = createDatabase({
      url: database.ownerUrl,
      poolSize: 1,
      connectionTimeout: 5_000,
      statementTimeout: 5_000,
      applicationName: 'test',
      onError: () => undefined,
    });
    const fault: unknown = await pool
      .query(
        statement(
          `INSERT INTO agents (user_id, name, instructions, max_concurrent_tasks) VALUES (uuidv7(), $1, $1, 99)`,
        ),
        [secret],
      )
      .catch((error: unknown) => error);
    await pool.close();
    await database.drop();
    // The error itself does hold it, or this test would prove nothing.
    expect(JSON.stringify(fault)).toContain(secret);
    const line = written((log) => log.error({ err: fault }, 'write failed'));
    expect(line).toContain('agents_max_concurrent_tasks_check');
    expect(line).toContain('23514');
    expect(line).not.toContain(secret);
  });

  it.each([
    ['a value that Postgres could not read', new Error(`invalid input syntax for type uuid: "${secret}"`)],
    [
      'the body of a refusal by the model',
      new OpenAI.APIError(400, { message: 'bad', prompt: secret }, 'bad', new Headers()),
    ],
    ['a cause below the fault', new Error('above', { cause: Object.assign(new Error('below'), { detail: secret }) })],
    ['something thrown that is no error', { content: secret }],
  ])('leaves out %s', (_case, fault) => {
    expect(written((log) => log.error({ err: fault }, 'failed'))).not.toContain(secret);
  });

  it.each(['authorization', 'token', 'apiKey', 'password', 'secret', 'content', 'cookie'])(
    'hides members called %s',
    (name) => {
      expect(written((log) => log.info({ [name]: secret, nested: { [name]: secret } }, 'line'))).not.toContain(secret);
    },
  );
});
