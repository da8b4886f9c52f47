import { array, assert, constantFrom, integer, nat, property, record, shuffledSubarray, tuple } from 'fast-check';
import { describe, expect, it } from 'vitest';
import { checkPlan, type PlannedTask } from '../src/services/plan-graph.ts';

const team = ['Researcher', 'Writer', 'Coder'];

function task(key: string, dependsOn: string[] = [], agent = 'Writer'): PlannedTask {
  return { key, agent, instruction: 'do it', dependsOn, why: 'because' };
}

/** Plans whose tasks depend on earlier ones only, listed in any order. */
const acyclicPlan = array(record({ agent: constantFrom(...team), links: array(nat({ max: 30 }), { maxLength: 4 }) }), {
  minLength: 1,
  maxLength: 15,
})
  .map((drafts) =>
    drafts.map((draft, place) =>
      task(`t${place}`, place === 0 ? [] : [...new Set(draft.links.map((link) => `t${link % place}`))], draft.agent),
    ),
  )
  .chain((tasks) => shuffledSubarray(tasks, { minLength: tasks.length, maxLength: tasks.length }));

describe('checkPlan', () => {
  it.each([
    ['no tasks', [], 'EMPTY'],
    ['more tasks than allowed', ['a', 'b', 'c', 'd'].map((key) => task(key)), 'TOO_MANY_TASKS'],
    ['two tasks of one name', [task('a'), task('a')], 'DUPLICATE_KEY'],
    ['an agent that is not in the team', [task('a', [], 'Stranger')], 'UNKNOWN_AGENT'],
    ['a dependency on a task that is not there', [task('a', ['z'])], 'UNKNOWN_DEPENDENCY'],
    ['a task that depends on itself', [task('a', ['a'])], 'CYCLE'],
    ['two tasks that wait for each other', [task('a', ['b']), task('b', ['a']), task('c')], 'CYCLE'],
  ])('refuses %s', (_case, tasks, kind) => {
    expect(checkPlan(tasks, team, 3)).toMatchObject({ ok: false, fault: { kind } });
  });

  it('knows agents whatever the case of their names', () => {
    expect(checkPlan([task('a', [], 'wRITER')], team, 3).ok).toBe(true);
  });

  it('puts every task behind those it depends on, and loses none', () => {
    assert(
      property(acyclicPlan, (tasks) => {
        const checked = checkPlan(tasks, team, 15);
        if (!checked.ok) {
          throw new Error(checked.fault.message);
        }
        const place = new Map(checked.order.map((each, index) => [each.key, index]));
        expect(new Set(checked.order)).toEqual(new Set(tasks));
        for (const each of tasks) {
          for (const key of each.dependsOn) {
            expect(place.get(key)).toBeLessThan(place.get(each.key) ?? -1);
          }
        }
      }),
    );
  });

  it('finds every cycle, wherever it is closed', () => {
    assert(
      property(acyclicPlan, tuple(nat(), integer({ min: 2, max: 5 })), (tasks, [start, length]) => {
        const ring = Array.from({ length }, (_, step) => tasks[(start + step) % tasks.length]?.key ?? '');
        const closed = tasks.map((each) => {
          const step = ring.indexOf(each.key);
          return step === -1 ? each : { ...each, dependsOn: [...each.dependsOn, ring[(step + 1) % length] ?? ''] };
        });
        expect(checkPlan(closed, team, 15)).toMatchObject({ ok: false, fault: { kind: 'CYCLE' } });
      }),
    );
  });
});
