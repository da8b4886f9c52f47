import { Composer } from './composer.tsx';
import { type Conversations, messagesOf, openQuestions, plansOf, tasksOf } from './conversation.ts';
import type { Connection } from './follow.ts';
import type { DecideMutationVariables, TeamQuery } from './generated/graphql.ts';
import { Plans } from './plans.tsx';
import { Questions } from './questions.tsx';
import { Sessions, Team } from './team.tsx';
import { Transcript } from './transcript.tsx';
import { Work } from './work.tsx';

export interface ChatPageProps {
  team: TeamQuery | undefined;
  conversations: Conversations;
  connection: Connection;
  /** The session that is shown; null for one that begins with the next message. */
  sessionId: string | null;
  /** What went wrong last; null when nothing did. */
  problem: string | null;
  onShow: (sessionId: string | null) => void;
  /** Null sends to the whole team. */
  onSend: (content: string, agentId: string | null) => Promise<boolean>;
  onCancel: (taskId: string) => void;
  onRetry: (planId: string) => void;
  onDecide: (decision: DecideMutationVariables) => void;
  onSignOut: () => void;
}

/** All that a user sees once signed in; it knows no client. */
export function ChatPage({ team, conversations, connection, sessionId, problem, ...on }: ChatPageProps) {
  const agents = team?.agents.edges.map(({ node }) => node) ?? [];
  const sessions = team?.sessions.edges.map(({ node }) => node) ?? [];
  return (
    <div className="page">
      <header>
        <h1>Retinue</h1>
        <output className={`connection ${connection.state}`}>{describe(connection)}</output>
        <button type="button" className="quiet" onClick={on.onSignOut}>
          Sign out
        </button>
      </header>
      <aside>
        <Team agents={agents} statuses={conversations.statuses} />
        <Sessions sessions={sessions} shown={sessionId} onShow={on.onShow} />
      </aside>
      <main>
        <Transcript messages={sessionId === null ? [] : messagesOf(conversations, sessionId)} />
        {problem === null ? null : (
          <p role="alert" className="problem">
            {problem}
          </p>
        )}
        <Composer agents={agents} onSend={on.onSend} />
      </main>
      <aside>
        <Questions questions={openQuestions(conversations)} onDecide={on.onDecide} />
        <Plans plans={sessionId === null ? [] : plansOf(conversations, sessionId)} onRetry={on.onRetry} />
        <Work tasks={sessionId === null ? [] : tasksOf(conversations, sessionId)} onCancel={on.onCancel} />
      </aside>
    </div>
  );
}

function describe(connection: Connection): string {
  switch (connection.state) {
    case 'connecting':
      return 'Connecting';
    case 'live':
      return 'Live';
    case 'waiting':
      return 'Connection lost, coming back';
    case 'refused':
      return `Refused: ${connection.reason}`;
  }
}

/** The title of a session that begins with this message. */
export function titleFor(content: string): string {
  const line = content.trim().split('\n')[0] ?? '';
  return line.length > 60 ? `${line.slice(0, 59)}…` : line;
}
