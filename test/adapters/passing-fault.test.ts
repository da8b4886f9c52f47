import pg from 'pg';
import { describe, expect, it } from 'vitest';
import { isPassingFault } from '../../src/adapters/postgres.ts';

function databaseError(code: string): pg.DatabaseError {
  const error = new pg.DatabaseError('made up', 7, 'error');
  error.code = code;
  return error;
}
const systemError = (code: string): Error => Object.assign(new Error(`connect ${code}`), { code });

describe('a fault of the database', () => {
  it.each([
    ['a connection that failed', databaseError('08006'), true],
    ['too many connections', databaseError('53300'), true],
    ['a server that shuts down', databaseError('57P01'), true],
    ['a server that starts', databaseError('57P03'), true],
    ['a statement that took too long', databaseError('57014'), true],
    ['a transaction that was idle for too long', databaseError('25P03'), true],
    ['nobody who listens', systemError('ECONNREFUSED'), true],
    ['a connection that ended in between', new Error('Connection terminated unexpectedly'), true],
    ['a row that breaks a rule', databaseError('23514'), false],
    ['a statement that makes no sense', databaseError('42601'), false],
    ['a deadlock, which the operation has tried again already', databaseError('40P01'), false],
    ['a bug of ours', new TypeError('undefined is not a function'), false],
    ['no error at all', 'ECONNREFUSED', false],
  ])('is told apart by whether it may pass by itself: %s', (_what, error, passes) => {
    expect(isPassingFault(error)).toBe(passes);
  });
});
