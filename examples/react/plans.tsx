import { Citations } from './citations.tsx';
import type { PlanState, PlanViewFragment } from './generated/graphql.ts';
import { taskWords } from './work.tsx';

const words: Record<PlanState, string> = {
  PLANNING: 'being made',
  WAITING: 'waits for you',
  RUNNING: 'running',
  COMPLETED: 'done',
  FAILED: 'partly failed',
  CANCELLED: 'cancelled',
  REJECTED: 'declined',
  EXPIRED: 'not approved in time',
};

const retryable: ReadonlySet<PlanState> = new Set<PlanState>(['FAILED', 'CANCELLED', 'EXPIRED']);

/** How the team shares the work on a message, as it goes on. Nothing is shown where there is no plan. */
export function Plans({ plans, onRetry }: { plans: readonly PlanViewFragment[]; onRetry: (planId: string) => void }) {
  return plans.map((plan) => <Plan key={plan.id} plan={plan} onRetry={onRetry} />);
}

function Plan({ plan, onRetry }: { plan: PlanViewFragment; onRetry: (planId: string) => void }) {
  return (
    <section className="plan" aria-label="Plan">
      <h2>
        Plan <small>{words[plan.state]}</small>
      </h2>
      {plan.fallbackMessage === null ? null : <p className="hint">{plan.fallbackMessage}</p>}
      <ol className="work">
        {plan.tasks.map((one) => (
          <Step key={one.key} step={one} all={plan.tasks} />
        ))}
      </ol>
      {retryable.has(plan.state) ? (
        <button type="button" className="quiet" onClick={() => onRetry(plan.id)}>
          Try again what failed
        </button>
      ) : null}
    </section>
  );
}

type PlanStep = PlanViewFragment['tasks'][number];

function Step({ step, all }: { step: PlanStep; all: readonly PlanStep[] }) {
  const state = step.task?.state;
  const after = step.dependsOn.map((key) => all.findIndex((one) => one.key === key) + 1);
  return (
    <li className={state?.toLowerCase()}>
      <strong>
        {all.indexOf(step) + 1}. {step.agentName}
      </strong>{' '}
      <small>{state === undefined ? 'planned' : taskWords[state]}</small>
      <p>{step.instruction}</p>
      {after.length === 0 ? null : <p className="hint">after {after.join(' and ')}</p>}
      {step.task?.errorMessage ? <p className="hint">{step.task.errorMessage}</p> : null}
      {step.result === null ? null : (
        <details>
          <summary>Result</summary>
          <p className="result">{step.result}</p>
          <Citations citations={step.task?.citations ?? []} />
        </details>
      )}
    </li>
  );
}
