import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestQueue, type TestQueue } from './arrange.ts';
import { type Action, keepsInvariants } from './interleavings.ts';

describe('any interleaving of what users, workers and the upkeep do', () => {
  let queue: TestQueue;
  beforeAll(async () => {
    queue = await startTestQueue();
  });
  afterAll(() => queue?.stop());

  it('keeps counts, limits, order, ends and events right after every step, and leaves nothing undone', async () => {
    // A failure prints the seed and the shortest interleaving that was found to show it.
    await fc.assert(keepsInvariants(queue), {
      numRuns: 500,
      interruptAfterTimeLimit: 12_000,
      markInterruptAsFailure: false,
    });
  }, 60_000);
});

interface Fault {
  fault: string;
  /** The function that it is put into, and the text that is replaced there. */
  of: string;
  from: string;
  to: string;
  /** Where chance takes its time: an interleaving to begin with. */
  shownBy?: Action[][];
}

const add = (agent: number, parents: number[] = [], needsSuccess = true, session: number | null = null): Action => ({
  do: 'enqueue',
  agent,
  session,
  parents,
  needsSuccess,
});
/** Adds a task to a session, in which it has a turn. */
const addTo = (session: number, parents: number[] = []): Action => add(0, parents, true, session);
const claim = (worker: number, slots: number): Action => ({ do: 'claim', worker, slots });
const complete = (slots: number, run = 0): Action => ({ do: 'end', run, how: 'complete', slots });
const offer = (worker: number, slots: number): Action => ({ do: 'offer', worker, slots });

/** Faults put into the functions of a throw-away database, each of which the property above must find. */
const faults: Fault[] = [
  {
    fault: 'a lane that does not count what runs for its user',
    of: 'queue.count_lanes_after_update()',
    from: 'running = tenants.running + one.running,',
    to: '',
  },
  {
    fault: 'lanes that do not count what runs for their user when several change at once',
    of: 'queue.count_lanes_after_update()',
    from: 'running = tenants.running + moved.running,',
    to: '',
    shownBy: [[add(0), add(1)], [claim(0, 4)]],
  },
  {
    fault: 'tasks that are not counted as running when several are claimed at once',
    of: 'queue.count_tasks_after_update()',
    from: 'running = lanes.running + moved.running,',
    to: '',
    shownBy: [[add(0), add(0)], [claim(0, 4)]],
  },
  {
    fault: 'an old attempt that may end a newer one',
    of: 'queue.end_attempt(uuid,integer,task_state,text,text,timestamptz,uuid,integer,text[],interval)',
    from: 'AND tasks.attempt = ended_attempt',
    to: '',
    shownBy: [
      [add(0)],
      [claim(0, 1)],
      [{ do: 'crash', worker: 0 }],
      [{ do: 'rescue' }],
      [claim(1, 1)],
      [{ do: 'end', run: 1, how: 'complete' }],
    ],
  },
  {
    fault: 'a claim that forgets the order in a session',
    of: 'queue.claim(uuid,integer,text[])',
    from: 'AND earlier.session_order < due.session_order',
    to: 'AND false',
    shownBy: [[addTo(0)], [addTo(0)], [claim(0, 2)]],
  },
  {
    fault: 'a claim that forgets the limit of the user',
    of: 'queue.claim(uuid,integer,text[])',
    from: 'least(share, tenants.max_running - tenants.running)',
    to: 'share',
    shownBy: [[add(2), add(2), add(2)], [claim(0, 4)]],
  },
  {
    fault: 'a hand-over that forgets the limit of the user',
    of: 'queue.take_worker(uuid,text,text)',
    from: 'AND tenants.running < tenants.max_running',
    to: '',
    shownBy: [[offer(0, 8)], [add(2)], [add(2)], [add(2)]],
  },
  {
    fault: 'a hand-over that forgets the limit of the agent',
    of: 'queue.take_worker(uuid,text,text)',
    from: 'AND lanes.running < lanes.max_running',
    to: '',
    shownBy: [[offer(0, 8)], [add(1)], [add(1)]],
  },
  {
    fault: 'an end whose worker goes on past the limit of the user',
    of: 'queue.release(uuid[],uuid,integer,text[],interval)',
    from: 'least(slots, tenants.max_running - tenants.running)',
    to: 'slots',
    shownBy: [[add(2)], [add(2, [0])], [add(2, [1])], [add(2, [2])], [claim(0, 1)], [complete(3)]],
  },
  {
    fault: 'an end whose worker goes on past the limit of the agent',
    of: 'queue.release(uuid[],uuid,integer,text[],interval)',
    from: 'AND ranked.lane_place <= ranked.lane_free',
    to: '',
    shownBy: [[add(1)], [add(1, [0])], [add(1, [1])], [claim(0, 1)], [complete(3)]],
  },
  {
    fault: 'an end whose worker goes on out of turn',
    of: 'queue.release(uuid[],uuid,integer,text[],interval)',
    from: 'AND earlier.session_order < due.session_order',
    to: 'AND false',
    shownBy: [[add(0)], [addTo(0)], [addTo(0, [1])], [claim(0, 2)], [complete(3, 1)]],
  },
  {
    fault: 'a parent that releases its children alone',
    of: 'queue.release(uuid[],uuid,integer,text[],interval)',
    from: `AND parent.state <> 'COMPLETED'`,
    to: 'AND false',
    shownBy: [[add(0), add(0)], [add(0, [0, 1])], [claim(0, 1)], [{ do: 'end', run: 0, how: 'complete' }]],
  },
  {
    fault: 'a failure that skips nothing',
    of: 'queue.skip(uuid[])',
    from: 'cardinality(ended_tasks) > 0',
    to: 'false',
  },
  {
    fault: 'a failure that skips who only waits for its end',
    of: 'queue.skip(uuid[])',
    from: 'AND link.needs_success',
    to: '',
    shownBy: [[add(0)], [add(0, [0], false)], [claim(0, 1)], [{ do: 'end', run: 0, how: 'fail' }]],
  },
  {
    fault: 'a failure that leaves who only waits for its end waiting',
    of: 'queue.release(uuid[],uuid,integer,text[],interval)',
    from: `AND (link.needs_success OR parent.state NOT IN ('FAILED', 'CANCELLED', 'SKIPPED'))`,
    to: '',
    shownBy: [[add(0)], [add(0, [0], false)], [claim(0, 1)], [{ do: 'end', run: 0, how: 'fail' }]],
  },
  {
    fault: 'a cancel that releases nobody',
    of: 'queue.cancel(uuid[],uuid,uuid,uuid,uuid[])',
    from: 'PERFORM queue.release(doomed || skipped);',
    to: '',
    shownBy: [[add(0)], [add(0, [0], false)], [{ do: 'cancel', what: 'task', which: 1 }]],
  },
  {
    fault: 'a cancel of what has ended',
    of: 'queue.cancel(uuid[],uuid,uuid,uuid,uuid[])',
    from: `AND tasks.state IN ('BLOCKED', 'QUEUED', 'RUNNING', 'WAITING', 'RETRYING')`,
    to: '',
  },
  {
    fault: 'a decision that queues what does not wait',
    of: 'queue.resume(uuid)',
    from: `AND tasks.state = 'WAITING'`,
    to: '',
    shownBy: [[add(0)], [claim(0, 1)], [{ do: 'end', run: 0, how: 'complete' }], [{ do: 'resume', task: 0 }]],
  },
  {
    fault: 'lanes that nobody looks into again after a turn has passed',
    of: 'queue.count_tasks_after_update()',
    from: 'AND lanes.waits_for_turn',
    to: 'AND NOT lanes.waits_for_turn',
  },
];

describe('the property finds', () => {
  let queue: TestQueue;
  beforeAll(async () => {
    queue = await startTestQueue();
  });
  afterAll(() => queue?.stop());

  it.each(faults)('$fault', async ({ of, from, to, shownBy }) => {
    const [found] = await queue.database.owner('SELECT pg_get_functiondef($1::regprocedure) AS definition', [of]);
    const definition = String(found?.['definition']);
    expect(definition).toContain(from);
    await queue.database.owner(definition.replaceAll(from, to));
    const details = await fc.check(keepsInvariants(queue), {
      numRuns: 200,
      interruptAfterTimeLimit: 20_000,
      endOnFailure: true,
      seed: 5,
      examples: shownBy === undefined ? [] : [[shownBy]],
    });
    await queue.database.owner(definition);
    expect(details.failed).toBe(true);
    expect(String(details.errorInstance)).toMatch(/broken invariants|impossible events|never done/);
  });
});
