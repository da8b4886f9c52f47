import { z } from 'zod';
import { statement } from '../adapters/postgres.ts';
import { badInput } from '../errors.ts';
import type { WriteOperation } from '../operation.ts';
import { parseInput, required } from './input.ts';
import { lockMemory } from './memory.ts';
import { pathRule, removeDocuments, sourceRule } from './memory-ingest.ts';
import { startMemoryJob } from './memory-job.ts';

export interface SyncInput {
  agentId: string;
  source: string;
  entries: readonly { path: string; hash: string }[];
  /** The page of the manifest covers paths behind this one; null from the start. */
  after?: string | null | undefined;
  /** Up to and with this one; null to the end. */
  through?: string | null | undefined;
}

/** What a page of a manifest came to. */
export type SyncOutcome = {
  taskId: string;
  /** Paths whose content is wanted, as JSON: an outcome holds texts only. */
  wanted: string;
  removed: string;
  /** Whether more documents of this page have vanished than one commit takes away: the same page is to be sent again. */
  again: string;
};

/** Most entries of one page. */
export const mostEntries = 2_000;
/** Documents that one commit takes away. */
const mostRemoved = 500;

const rules = z.object({
  source: sourceRule,
  entries: z
    .array(
      z.object({
        path: pathRule,
        hash: z
          .string(required('hash'))
          .regex(/^[0-9a-f]{64}$/, '`hash` must be a SHA-256 in lower-case hexadecimal digits.'),
      }),
    )
    .max(mostEntries, `\`entries\` may have at most ${mostEntries} items; send the manifest in pages.`),
  after: pathRule.nullish(),
  through: pathRule.nullish(),
});

const inRange = `user_id = $1 AND memory_id = $2 AND source = $3
  AND ($4::text IS NULL OR path COLLATE "C" > $4) AND ($5::text IS NULL OR path COLLATE "C" <= $5)`;
const findVanished = statement<{ id: string }>(`
  SELECT id FROM memory_documents WHERE ${inRange} AND path <> ALL ($6::text[]) ORDER BY id LIMIT ${mostRemoved + 1}`);
const findKnown = statement<{ path: string; hash: string }>(`
  SELECT path, content_hash AS hash FROM memory_documents
  WHERE user_id = $1 AND memory_id = $2 AND source = $3 AND path = ANY ($4::text[])`);

/**
 * Compares a page of a source's manifest with what an agent remembers of it: says which contents are wanted, because they
 * are new or have changed, and takes away what lies in the page's range of paths but not in the page. Pages are ordered by
 * the UTF-8 bytes of their paths and need no state between them, so that any of them may be sent again.
 * @throws DomainError NOT_FOUND, BAD_USER_INPUT, AGENT_QUEUE_FULL
 */
export async function syncSource(operation: WriteOperation, input: SyncInput): Promise<SyncOutcome> {
  const { source, entries, after = null, through = null } = parseInput(rules, input, 'input');
  const { userId } = operation;
  const { agentId } = input;
  const paths = entries.map(({ path }) => path);
  checkRange(paths, after, through);
  const laneId = await lockMemory(operation, agentId, 'input.agentId');
  const found = await operation.query(findVanished, [userId, agentId, source, after, through, paths]);
  const vanished = found.slice(0, mostRemoved).map(({ id }) => id);
  if (vanished.length > 0) {
    await removeDocuments(operation, vanished);
  }
  const known = new Map(
    (await operation.query(findKnown, [userId, agentId, source, paths])).map(({ path, hash }) => [path, hash]),
  );
  const wanted = entries.filter(({ path, hash }) => known.get(path) !== hash).map(({ path }) => path);
  const counts = { removed: vanished.length, unchanged: entries.length - wanted.length };
  const taskId = await startMemoryJob(operation, { agentId, laneId, kind: 'INGEST' }, counts);
  return {
    taskId,
    wanted: JSON.stringify(wanted),
    removed: String(vanished.length),
    again: String(found.length > mostRemoved),
  };
}

/** The order of manifests: by UTF-8 bytes, as the database's collation "C" has it. */
export function comparePaths(one: string, other: string): number {
  return Buffer.compare(Buffer.from(one), Buffer.from(other));
}

function checkRange(paths: readonly string[], after: string | null, through: string | null): void {
  const outside = paths.find(
    (path) =>
      (after !== null && comparePaths(path, after) <= 0) || (through !== null && comparePaths(path, through) > 0),
  );
  if (outside !== undefined) {
    throw badInput('input.entries', 'An entry lies outside of the range from `after` to `through`.');
  }
  if (new Set(paths).size !== paths.length) {
    throw badInput('input.entries', 'Two of the `entries` have the same path.');
  }
}
