import { randomBytes } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { v7 as uuidv7 } from 'uuid';
import { encodeId } from '../../src/schema/builder.ts';
import type { IdCase } from './id-cases.ts';
import type { Ask, World } from './world.ts';

/** Who tries what of whom. */
export interface Trial {
  /** Asks as the caller. */
  ask: Ask;
  caller: World;
  /** Whose things the caller tries to reach. */
  stranger: World;
  /** All rows of both, as text. */
  dump: () => Promise<string[]>;
}

type Answer = Awaited<ReturnType<Ask>>;

const uuid = /[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g;

/**
 * Tries a stranger's value and a made-up one of the same kind, and returns one line for each thing that tells them
 * apart: in the answer, or in what is stored afterwards. None when the caller learns and changes nothing.
 */
export async function tryForeignValue(place: string, idCase: IdCase, trial: Trial): Promise<string[]> {
  const findings: string[] = [];
  for (const { kind, value, madeUp } of valuesFor(idCase, trial.stranger)) {
    const own = idCase.own?.(trial.caller) ?? {};
    const before = await trial.dump();
    const foreign = await trial.ask(idCase.document, { ...own, value });
    const invented = await trial.ask(idCase.document, { ...own, value: madeUp });
    const after = await trial.dump();
    const name = `${place} with ${kind}`;
    findings.push(
      ...brokenBy(foreign).map((code) => `${name}: the case itself is at fault: ${code}`),
      ...compareAnswers(normalise(foreign, value), normalise(invented, madeUp)).map((line) => `${name}: ${line}`),
      ...tracesOf(trial.stranger, before, foreign, value).map((trace) => `${name}: the answer holds ${trace}`),
      ...compareRows(before, after).map((line) => `${name}: ${line}`),
    );
  }
  return findings;
}

/** Asks with the caller's own value: a case that answers to it as to a made-up one would prove nothing. */
export async function tryOwnValue(place: string, idCase: IdCase, trial: Trial): Promise<string[]> {
  const findings: string[] = [];
  for (const { kind, value, madeUp } of valuesFor(idCase, trial.caller)) {
    const own = idCase.own?.(trial.caller) ?? {};
    const invented = await trial.ask(idCase.document, { ...own, value: madeUp });
    const answer = await trial.ask(idCase.document, { ...own, value });
    if (answer.errors.length > 0) {
      findings.push(`${place} with ${kind}: the owner gets ${JSON.stringify(answer.errors)}`);
    } else if (
      typeof idCase.takes === 'string' &&
      isDeepStrictEqual(normalise(answer, value), normalise(invented, madeUp))
    ) {
      findings.push(`${place} with ${kind}: the owner gets what a made-up id gets`);
    }
  }
  return findings;
}

/** How two answers differ, one line each. */
export function compareAnswers(foreign: unknown, invented: unknown, path = 'answer'): string[] {
  if (isDeepStrictEqual(foreign, invented)) {
    return [];
  }
  if (isRecord(foreign) && isRecord(invented)) {
    const members = new Set([...Object.keys(foreign), ...Object.keys(invented)]);
    return [...members].flatMap((member) => compareAnswers(foreign[member], invented[member], `${path}.${member}`));
  }
  return [`${path} is ${JSON.stringify(foreign)}, but ${JSON.stringify(invented)} for a made-up value`];
}

/** The same id but for the chance in it: a cursor of that moment, which nobody was given. */
export function inventCursor(cursor: string): string {
  const text = Buffer.from(cursor, 'base64url').toString('utf8');
  return Buffer.from(text.replace(uuid, (id) => `${id.slice(0, 24)}${randomBytes(6).toString('hex')}`)).toString(
    'base64url',
  );
}

function valuesFor(idCase: IdCase, owner: World): { kind: string; value: string; madeUp: string }[] {
  const { takes } = idCase;
  if (typeof takes === 'string') {
    const nouns = takes === 'Node' ? Object.keys(owner.ids) : [takes];
    return nouns.map((noun) => ({
      kind: `the id of a ${noun}`,
      value: owner.ids[noun] ?? '',
      madeUp: encodeId(noun, uuidv7()),
    }));
  }
  if ('search' in takes) {
    return [
      {
        kind: 'a title',
        value: owner.marker,
        madeUp: randomBytes(owner.marker.length).toString('hex').slice(0, owner.marker.length),
      },
    ];
  }
  const cursor = owner.cursors[takes.cursorOf] ?? '';
  return [{ kind: 'a cursor', value: cursor, madeUp: inventCursor(cursor) }];
}

/** What can be compared: without the value that was sent, and without what differs from request to request. */
function normalise({ status, data, errors }: Answer, sent: string): unknown {
  const told = errors.map(({ message, path, extensions }) => {
    const { traceId: _traceId, ...rest } = extensions;
    return { message, path, extensions: rest };
  });
  return JSON.parse(
    JSON.stringify({ status, data, errors: told }).replaceAll(JSON.stringify(sent).slice(1, -1), '<value>'),
  );
}

/** Codes that say that the request was no fair trial. */
function brokenBy({ errors }: Answer): string[] {
  const faults = new Set(['GRAPHQL_PARSE_FAILED', 'GRAPHQL_VALIDATION_FAILED', 'UNAUTHENTICATED', 'INTERNAL']);
  return errors.map(({ extensions }) => String(extensions['code'])).filter((code) => faults.has(code));
}

/** Texts and ids of the stranger that an answer holds, but for the one that was sent. */
function tracesOf(stranger: World, rows: string[], answer: Answer, sent: string): string[] {
  const text = JSON.stringify([answer.data, answer.errors]).replaceAll(sent, '<value>');
  const theirRows = rows.filter((row) => row.includes(stranger.userId));
  const theirIds = new Set(theirRows.flatMap((row) => row.match(uuid) ?? []));
  const clientIds = [...theirIds].flatMap((id) => [id, ...Object.keys(stranger.ids).map((noun) => encodeId(noun, id))]);
  return [stranger.marker, ...clientIds].filter((trace) => text.includes(trace));
}

function compareRows(before: string[], after: string[]): string[] {
  const [earlier, later] = [new Set(before), new Set(after)];
  return [
    ...before.filter((row) => !later.has(row)).map((row) => `this row is gone or changed: ${row}`),
    ...after.filter((row) => !earlier.has(row)).map((row) => `this row is new or changed: ${row}`),
  ];
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}
