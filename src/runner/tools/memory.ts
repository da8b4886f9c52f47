import { DomainError } from '../../errors.ts';
import { storeCitations } from '../../services/citation.ts';
import { remember } from '../../services/memory-ingest.ts';
import { type MemoryIndex, searchMemory } from '../../services/memory-search.ts';
import { withinBudget } from '../retrieval.ts';
import type { ToolContext } from '../tool.ts';
import type { BuiltInCall } from './built-in.ts';

/** Searches the memory of the agent that calls it, and of no other. What it finds is cited by the answer. */
export function searchOwnMemory(index: MemoryIndex): BuiltInCall {
  return async (given, { run, signal }) => {
    const agentId = agentOf(run);
    const first = typeof given['first'] === 'number' ? given['first'] : null;
    const path = typeof given['path'] === 'string' && given['path'] !== '' ? given['path'] : null;
    const query = String(given['query']).slice(0, 4_000).toWellFormed();
    const input = { agentId, query, first, filter: { path } };
    const found = await searchMemory(index, run.resources.model, run.operation, input, signal);
    const matches = withinBudget(found.matches);
    const { sessionId } = run.task;
    await run.operation.write((write) =>
      storeCitations(write, run.claim, { sessionId, agentId }, { ...found, matches }),
    );
    const told = matches.map(({ source, path: where, heading, startLine, endLine, content }) => ({
      source,
      path: where,
      ...(heading === '' ? {} : { heading }),
      lines: `${startLine}-${endLine}`,
      content,
    }));
    const note = found.degraded === null ? {} : { note: 'Only words were searched: meaning could not be for now.' };
    return JSON.stringify({ ...note, matches: told });
  };
}

/** Keeps a note in the memory of the agent that calls it. The same note again changes nothing. */
export function rememberNote(): BuiltInCall {
  return async (given, { run }) => {
    const agentId = agentOf(run);
    const note = String(given['text']).replaceAll('\u0000', '').toWellFormed();
    await run.operation.write((write) => remember(write, agentId, note));
    return 'Remembered.';
  };
}

function agentOf(run: ToolContext['run']): string {
  const { agentId } = run.task;
  if (agentId === null) {
    throw new DomainError('TOOL_FAILED', 'There is no agent whose memory this could be.');
  }
  return agentId;
}
