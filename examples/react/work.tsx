import { isOver } from './conversation.ts';
import type { TaskState, WorkFragment } from './generated/graphql.ts';

/** Where a task stands, for people. */
export const taskWords: Record<TaskState, string> = {
  BLOCKED: 'waits for others',
  QUEUED: 'queued',
  RUNNING: 'running',
  RETRYING: 'will be tried again',
  WAITING: 'waits for you',
  COMPLETED: 'done',
  FAILED: 'failed',
  CANCELLED: 'cancelled',
  SKIPPED: 'skipped',
};

/** The tasks behind a conversation that are part of no plan, with a way to stop those that have not ended. */
export function Work({ tasks: all, onCancel }: { tasks: readonly WorkFragment[]; onCancel: (taskId: string) => void }) {
  const tasks = all.filter(({ plan }) => plan === null);
  return (
    <section aria-labelledby="work">
      <h2 id="work">Work</h2>
      {tasks.length === 0 ? <p className="hint">Nothing yet.</p> : null}
      <ol className="work">
        {tasks.map((task) => (
          <li key={task.id} className={task.state.toLowerCase()}>
            <strong>{task.agent?.name ?? 'Your team'}</strong> <small>{taskWords[task.state]}</small>
            <Note task={task} />
            {isOver(task) ? null : (
              <button type="button" className="quiet" onClick={() => onCancel(task.id)}>
                Cancel
              </button>
            )}
          </li>
        ))}
      </ol>
    </section>
  );
}

function Note({ task: { state, errorMessage, progressNote } }: { task: WorkFragment }) {
  const note = state === 'COMPLETED' ? null : (errorMessage ?? progressNote);
  return note === null ? null : <p className="hint">{note}</p>;
}
