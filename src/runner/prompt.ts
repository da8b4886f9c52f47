import type { ChatMessage } from '../adapters/llm.ts';
import type { AgentRun } from '../services/agent-run.ts';

/** Most characters of earlier messages in one prompt; the newest are kept. About a quarter as many tokens. */
const historyBudget = 48_000;

/** What the model is told: the agent's instructions, then as much of the conversation as fits, oldest first. */
export function composePrompt(context: Pick<AgentRun, 'agent' | 'history'>): ChatMessage[] {
  const { agent, history } = context;
  const kept: ChatMessage[] = [];
  let spent = 0;
  for (const message of history.toReversed()) {
    spent += message.content.length;
    if (kept.length > 0 && spent > historyBudget) {
      break;
    }
    kept.unshift(toChatMessage(agent.id, message));
  }
  return [{ role: 'system', content: agent.instructions }, ...kept];
}

function toChatMessage(agentId: string, message: AgentRun['history'][number]): ChatMessage {
  if (message.role === 'USER') {
    return { role: 'user', content: message.content };
  }
  if (message.agentId === agentId) {
    return { role: 'assistant', content: message.content };
  }
  // Another agent's words are told as such, so that the model does not take them for its own.
  return { role: 'user', content: `${message.agentName ?? 'A former agent'} answered: ${message.content}` };
}
