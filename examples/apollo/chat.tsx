import { skipToken, useApolloClient, useMutation, useQuery } from '@apollo/client/react';
import { useEffect, useMemo, useState } from 'react';
import { ChatPage, titleFor } from '../react/chat-page.tsx';
import {
  CancelTaskDocument,
  ConversationDocument,
  DecideDocument,
  type DecideMutationVariables,
  OpenSessionDocument,
  RetryPlanDocument,
  SendMessageDocument,
  TeamDocument,
} from '../react/generated/graphql.ts';
import { useConversations } from '../react/use-conversations.ts';
import { subscribeWith } from './client.ts';

export function Chat({ onSignOut }: { onSignOut: () => void }) {
  const client = useApolloClient();
  const { conversations, connection, tell } = useConversations(useMemo(() => subscribeWith(client), [client]));
  const [sessionId, setSessionId] = useState<string | null>(null);
  const [problem, setProblem] = useState<string | null>(null);

  // The stream comes first: what happens while the queries are under way is not missed.
  const [hasBegun, setBegun] = useState(false);
  if (connection.state === 'live' && !hasBegun) {
    setBegun(true);
  }
  const team = useQuery(TeamDocument, hasBegun ? {} : skipToken);
  const conversation = useQuery(
    ConversationDocument,
    hasBegun && sessionId !== null ? { variables: { sessionId }, fetchPolicy: 'network-only' } : skipToken,
  );
  const loaded = conversation.data?.session;
  useEffect(() => {
    if (loaded) {
      tell({
        kind: 'loaded',
        lines: loaded.messages.edges.map(({ node }) => node),
        tasks: loaded.tasks.edges.map(({ node }) => node).toReversed(),
        plans: loaded.plans.edges.map(({ node }) => node).toReversed(),
      });
    }
  }, [loaded, tell]);
  const asked = team.data?.approvals;
  useEffect(() => {
    if (asked) {
      tell({ kind: 'loaded', questions: asked.edges.map(({ node }) => node) });
    }
  }, [asked, tell]);
  const { losses } = conversations;
  useEffect(() => {
    if (losses > 0) {
      void client.refetchQueries({ include: 'active' });
    }
  }, [losses, client]);

  const [openSession] = useMutation(OpenSessionDocument, { refetchQueries: [TeamDocument] });
  const [sendMessage] = useMutation(SendMessageDocument);
  const [retryPlan] = useMutation(RetryPlanDocument);
  const [cancelTask] = useMutation(CancelTaskDocument);
  const [decideApproval] = useMutation(DecideDocument);

  const ensureSession = async (content: string): Promise<string | null> => {
    if (sessionId !== null) {
      return sessionId;
    }
    const { data } = await openSession({ variables: { title: titleFor(content) } });
    const id = data?.createSession?.session?.id ?? null;
    setSessionId(id);
    return id;
  };
  /** Says whether it went well, and shows the user what did not. */
  const attempt = async (work: () => Promise<void>): Promise<boolean> => {
    try {
      await work();
      setProblem(null);
      return true;
    } catch (error) {
      setProblem(error instanceof Error ? error.message : String(error));
      return false;
    }
  };
  const send = (content: string, targetAgentId: string | null): Promise<boolean> =>
    attempt(async () => {
      const id = await ensureSession(content);
      if (id === null) {
        throw new Error('The session was deleted before the message was sent.');
      }
      const { data } = await sendMessage({ variables: { input: { sessionId: id, targetAgentId, content } } });
      const sent = data?.sendMessage;
      tell({ kind: 'loaded', lines: sent?.message ? [sent.message] : [], tasks: sent?.task ? [sent.task] : [] });
    });
  const decide = (variables: DecideMutationVariables): Promise<boolean> =>
    attempt(async () => {
      const { data } = await decideApproval({ variables });
      const decided = data?.decideApproval?.approval;
      tell({ kind: 'loaded', questions: decided ? [decided] : [] });
    });

  return (
    <ChatPage
      team={team.data}
      conversations={conversations}
      connection={connection}
      sessionId={sessionId}
      problem={problem ?? team.error?.message ?? conversation.error?.message ?? null}
      onShow={setSessionId}
      onSend={send}
      onDecide={(decision) => void decide(decision)}
      onRetry={(id) => void attempt(async () => void (await retryPlan({ variables: { id } })))}
      onCancel={(id) => void attempt(async () => void (await cancelTask({ variables: { id } })))}
      onSignOut={onSignOut}
    />
  );
}
