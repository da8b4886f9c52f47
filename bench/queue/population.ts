import type { Job } from './engine.ts';

/** Users whose tasks measure throughput, and how many agents each has. */
const team = { users: 50, agents: 4 } as const;
/** The user who floods: with more agents than two processes have slots for, so that only fairness leaves any for others. */
const flood = { user: team.users, agents: 20 } as const;
const light = { user: team.users + 1, agents: 4 } as const;

const teamAgents = team.users * team.agents;

/** Every agent with its user, by number. */
export const agents: readonly { agent: number; user: number }[] = [
  ...Array.from({ length: teamAgents }, (_, place) => Math.floor(place / team.agents)),
  ...Array.from({ length: flood.agents }, () => flood.user),
  ...Array.from({ length: light.agents }, () => light.user),
].map((user, agent) => ({ agent, user }));

let lastNumber = 0;

function job(agent: number): Job {
  lastNumber += 1;
  return { number: lastNumber, agent, user: agents[agent]?.user ?? 0 };
}

/** Tasks of all teams, each in turn for the next agent. */
export function spreadJobs(count: number): Job[] {
  return Array.from({ length: count }, (_, place) => job((place * 7) % teamAgents));
}

/** Tasks of all teams in bursts: each agent gets all of its own at once, which is when its limit matters. */
export function burstJobs(count: number): Job[] {
  const each = Math.ceil(count / teamAgents);
  return Array.from({ length: count }, (_, place) => job(Math.floor(place / each)));
}

/** A task of the first agent. */
export function singleJob(): Job {
  return job(0);
}

export function floodJobs(count: number): Job[] {
  return Array.from({ length: count }, (_, place) => job(teamAgents + (place % flood.agents)));
}

export function lightJobs(count: number): Job[] {
  return Array.from({ length: count }, (_, place) => job(teamAgents + flood.agents + (place % light.agents)));
}
