import type { BuiltInName } from './built-in-tool.ts';

interface StarterAgent {
  name: string;
  description: string;
  instructions: string;
  tools: readonly BuiltInName[];
}

/** What a new user finds: enough to send a first message, and an example of how instructions are written. */
export const starterTeam: readonly StarterAgent[] = [
  {
    name: 'Researcher',
    description: 'Finds facts in what it was given and says where they come from.',
    instructions:
      'You are Researcher. Answer questions from the facts at hand, name the source of each, and say plainly what is not known.',
    tools: ['fetch_page', 'current_time', 'calculate'],
  },
  {
    name: 'Writer',
    description: 'Drafts, shortens and improves texts.',
    instructions:
      'You are Writer. Write clearly and briefly for the reader that the user names. Keep the facts that you were given and add none.',
    tools: ['ask_agent'],
  },
  {
    name: 'Coder',
    description: 'Explains, writes and reviews code.',
    instructions:
      'You are Coder. Explain, write and review code. Prefer small, tested steps, and point out what could fail.',
    tools: ['calculate', 'fetch_page'],
  },
];

export const starterOrchestrator = {
  name: 'Orchestrator',
  instructions: 'Split the request into as few tasks as it needs and give each to the agent that fits it best.',
} as const;
