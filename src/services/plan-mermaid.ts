import type { TaskState } from '../generated/prisma/enums.ts';

/** A task of a plan as it is drawn. */
export interface DrawnTask {
  key: string;
  agentName: string;
  instruction: string;
  dependsOn: readonly string[];
  /** Null before the task exists. */
  state: TaskState | null;
}

const longestLabel = 80;
const colours: Partial<Record<TaskState, string>> = {
  COMPLETED: 'fill:#d3f9d8,stroke:#2b8a3e',
  RUNNING: 'fill:#d0ebff,stroke:#1864ab',
  WAITING: 'fill:#fff3bf,stroke:#e67700',
  FAILED: 'fill:#ffe3e3,stroke:#c92a2a',
  CANCELLED: 'fill:#f1f3f5,stroke:#868e96',
  SKIPPED: 'fill:#f1f3f5,stroke:#868e96',
};

/** A plan as a Mermaid flowchart (https://mermaid.js.org/syntax/flowchart.html). Nothing in a text can leave its label. */
export function drawPlan(tasks: readonly DrawnTask[]): string {
  const places = new Map(tasks.map((task, place) => [task.key, `task${place + 1}`]));
  const nodes = tasks.map((task, place) => {
    const label = `${asLabel(task.agentName)}<br/>${asLabel(shorten(task.instruction))}`;
    const style = task.state === null || colours[task.state] === undefined ? '' : `:::${task.state.toLowerCase()}`;
    return `  task${place + 1}["${label}"]${style}`;
  });
  const edges = tasks.flatMap((task) =>
    task.dependsOn.flatMap((key) => (places.has(key) ? [`  ${places.get(key)} --> ${places.get(task.key)}`] : [])),
  );
  const used = new Set(tasks.map((task) => task.state));
  const classes = Object.entries(colours)
    .filter(([state]) => used.has(state as TaskState))
    .map(([state, style]) => `  classDef ${state.toLowerCase()} ${style}`);
  return ['flowchart TD', ...nodes, ...edges, ...classes].join('\n');
}

function shorten(text: string): string {
  const letters = [...text.replaceAll(/\s+/g, ' ').trim()];
  return letters.length <= longestLabel ? letters.join('') : `${letters.slice(0, longestLabel - 1).join('')}…`;
}

/**
 * Mermaid's own entities: everything but letters, digits, spaces and harmless punctuation. It turns them back before it looks
 * for formulas ($$), icons (fa:) and line breaks (\n): a word joiner, which nobody sees, keeps these from being found.
 */
function asLabel(text: string): string {
  return text.replaceAll(
    /[^\p{L}\p{N} .,!?'’…()/+=*-]/gu,
    (character) => `#${character.codePointAt(0)};${/[$:\\]/.test(character) ? '#8288;' : ''}`,
  );
}
