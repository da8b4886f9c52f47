import type { AgentStatus, TeamQuery } from './generated/graphql.ts';

type Agent = TeamQuery['agents']['edges'][number]['node'];
type Session = TeamQuery['sessions']['edges'][number]['node'];

const words: Record<AgentStatus, string> = { READY: 'ready', BUSY: 'busy', ERROR: 'last task failed' };

/** The agents and what each one does now. */
export function Team({
  agents,
  statuses,
}: {
  agents: readonly Agent[];
  statuses: Readonly<Record<string, AgentStatus>>;
}) {
  return (
    <section aria-labelledby="team">
      <h2 id="team">Team</h2>
      <ul className="team">
        {agents.map((agent) => {
          const status = statuses[agent.id] ?? agent.status;
          return (
            <li key={agent.id} title={agent.description}>
              <span className={`dot ${status.toLowerCase()}`} aria-hidden="true" />
              {agent.name} <small>{words[status]}</small>
            </li>
          );
        })}
      </ul>
    </section>
  );
}

/** The conversations so far. */
export function Sessions({
  sessions,
  shown,
  onShow,
}: {
  sessions: readonly Session[];
  shown: string | null;
  onShow: (sessionId: string | null) => void;
}) {
  return (
    <nav aria-labelledby="sessions">
      <h2 id="sessions">Conversations</h2>
      <ul className="sessions">
        <li>
          <button type="button" aria-current={shown === null} onClick={() => onShow(null)}>
            New conversation
          </button>
        </li>
        {sessions.map(({ id, title }) => (
          <li key={id}>
            <button type="button" aria-current={shown === id} onClick={() => onShow(id)}>
              {title}
            </button>
          </li>
        ))}
      </ul>
    </nav>
  );
}
