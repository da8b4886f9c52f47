import { z } from 'zod';
import { checkPlan, type PlanFault, type PlannedTask } from './plan-graph.ts';

/** An agent as a planner is told of it. */
export interface TeamMember {
  id: string;
  name: string;
  description: string;
}

/** A task of a plan as it is stored: with the agent that its name meant when the plan was made. */
export interface PlanNode extends PlannedTask {
  agentId: string;
}

/** Why a simple plan stands in for the planner's: it was too slow, failed, wrote no plan, or one that can't be run. */
export type FallbackReason = 'TOO_SLOW' | 'PLANNER_FAILED' | 'MALFORMED' | PlanFault['kind'];

export interface Fallback {
  reason: FallbackReason;
  message: string;
}

export interface PlanDraft {
  /** Each after those it depends on. */
  tasks: PlanNode[];
  /** Null for a plan of the planner's. */
  fallback: Fallback | null;
}

/** Most agents that the simple plan asks. */
const fallbackAgents = 3;

// Limits on what a model wrote, far above what a plan needs.
const plannerAnswer = z.object({
  tasks: z
    .array(
      z.object({
        key: z.string().trim().min(1).max(80),
        agent: z.string().trim(),
        instruction: z.string().trim().min(1).max(20_000),
        dependsOn: z.array(z.string().trim()).max(100),
        why: z.string().trim().max(2_000),
      }),
    )
    .max(1_000),
});

/** The JSON Schema of a planner's answer: what `readPlan` takes, for this team. */
export function planSchema(team: readonly TeamMember[], maxTasks: number): Record<string, unknown> {
  const text = (description: string) => ({ type: 'string', description });
  return {
    type: 'object',
    additionalProperties: false,
    required: ['tasks'],
    properties: {
      tasks: {
        type: 'array',
        minItems: 1,
        maxItems: maxTasks,
        items: {
          type: 'object',
          additionalProperties: false,
          required: ['key', 'agent', 'instruction', 'dependsOn', 'why'],
          properties: {
            key: text('Short name of the task, used by dependsOn.'),
            agent: { ...text('The agent that shall do it.'), enum: team.map((member) => member.name) },
            instruction: text('What the agent shall do, in full sentences.'),
            dependsOn: {
              type: 'array',
              items: { type: 'string' },
              description: 'Keys of the tasks whose results it needs; empty when it needs none.',
            },
            why: text('Why the plan needs it, in one sentence for the user.'),
          },
        },
      },
    },
  };
}

/** Makes a draft of what a planner wrote; of the simple plan where that can't be run. Nothing it wrote is trusted. */
export function draftPlan(answer: string, request: string, team: readonly TeamMember[], maxTasks: number): PlanDraft {
  const written = parseAnswer(answer);
  if (written === null) {
    return draftFallback(request, team, maxTasks, {
      reason: 'MALFORMED',
      message: 'The planner did not write a plan.',
    });
  }
  const checked = checkPlan(
    written,
    team.map((member) => member.name),
    maxTasks,
  );
  if (!checked.ok) {
    const { kind, message } = checked.fault;
    return draftFallback(request, team, maxTasks, { reason: kind, message });
  }
  return { tasks: assign(checked.order, team), fallback: null };
}

/** The simple plan: the agents that fit the request best, one after the other, each told what came before. */
export function draftFallback(
  request: string,
  team: readonly TeamMember[],
  maxTasks: number,
  fallback: Fallback,
): PlanDraft {
  const chosen = bestAgents(request, team).slice(0, Math.min(fallbackAgents, maxTasks));
  const tasks = chosen.map((member, place) => ({
    key: `step ${place + 1}`,
    agent: member.name,
    instruction:
      place === 0 ? request : `Go on with this request, building on what the agents before you found: ${request}`,
    dependsOn: place === 0 ? [] : [`step ${place}`],
    why: place === 0 ? 'It fits the request best.' : 'It may add to what came before.',
  }));
  return { tasks: assign(tasks, team), fallback };
}

function parseAnswer(answer: string): PlannedTask[] | null {
  // Postgres can't store U+0000, neither as itself nor as an escape in JSON.
  const json = parseJson(answer.replaceAll('\u0000', '').replaceAll('\\u0000', ''));
  const result = plannerAnswer.safeParse(json);
  return result.success ? result.data.tasks : null;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function assign(tasks: readonly PlannedTask[], team: readonly TeamMember[]): PlanNode[] {
  const byName = new Map(team.map((member) => [member.name.toLowerCase(), member]));
  return tasks.flatMap((task) => {
    const member = byName.get(task.agent.toLowerCase());
    return member === undefined
      ? []
      : [{ ...task, agent: member.name, agentId: member.id, dependsOn: [...new Set(task.dependsOn)] }];
  });
}

/** Agents that share words with the request, most of them first; the oldest agent when none does. */
function bestAgents(request: string, team: readonly TeamMember[]): TeamMember[] {
  const asked = wordsOf(request);
  const scored = team.map((member) => ({
    member,
    score: [...wordsOf(`${member.name} ${member.description}`)].filter((word) => asked.has(word)).length,
  }));
  const fitting = scored.filter(({ score }) => score > 0).toSorted((one, other) => other.score - one.score);
  return (fitting.length > 0 ? fitting : scored.slice(0, 1)).map(({ member }) => member);
}

function wordsOf(text: string): Set<string> {
  return new Set((text.toLowerCase().match(/\p{L}{4,}/gu) ?? []).map((word) => word.slice(0, 5)));
}
