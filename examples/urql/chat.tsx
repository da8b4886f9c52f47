import { useEffect, useMemo, useState } from 'react';
import { useClient, useMutation, useQuery } from 'urql';
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
import { explain, subscribeWith } from './client.ts';

export function Chat({ onSignOut }: { onSignOut: () => void }) {
  const client = useClient();
  const { conversations, connection, tell } = useConversations(useMemo(() => subscribeWith(client), [client]));
  const [sessionId, setSessionId] = useState<string | null>(null);
  const [problem, setProblem] = useState<string | null>(null);

  // The stream comes first: what happens while the queries are under way is not missed.
  const [hasBegun, setBegun] = useState(false);
  if (connection.state === 'live' && !hasBegun) {
    setBegun(true);
  }
  const [team, readTeam] = useQuery({ query: TeamDocument, pause: !hasBegun });
  const [conversation, readConversation] = useQuery({
    query: ConversationDocument,
    variables: { sessionId: sessionId ?? '' },
    pause: !hasBegun || sessionId === null,
    requestPolicy: 'network-only',
  });
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
      readTeam({ requestPolicy: 'network-only' });
      readConversation({ requestPolicy: 'network-only' });
    }
  }, [losses, readTeam, readConversation]);

  const [, openSession] = useMutation(OpenSessionDocument);
  const [, sendMessage] = useMutation(SendMessageDocument);
  const [, retryPlan] = useMutation(RetryPlanDocument);
  const [, cancelTask] = useMutation(CancelTaskDocument);
  const [, decideApproval] = useMutation(DecideDocument);

  const ensureSession = async (content: string): Promise<string | null> => {
    if (sessionId !== null) {
      return sessionId;
    }
    const { data, error } = await openSession({ title: titleFor(content) });
    setProblem(error === undefined ? null : explain(error));
    const id = data?.createSession?.session?.id ?? null;
    setSessionId(id);
    return id;
  };
  const send = async (content: string, targetAgentId: string | null): Promise<boolean> => {
    const id = await ensureSession(content);
    if (id === null) {
      return false;
    }
    const { data, error } = await sendMessage({ input: { sessionId: id, targetAgentId, content } });
    setProblem(error === undefined ? null : explain(error));
    const sent = data?.sendMessage;
    tell({ kind: 'loaded', lines: sent?.message ? [sent.message] : [], tasks: sent?.task ? [sent.task] : [] });
    return error === undefined;
  };
  const cancel = async (id: string): Promise<void> => {
    const { error } = await cancelTask({ id });
    setProblem(error === undefined ? null : explain(error));
  };

  const retry = async (id: string): Promise<void> => {
    const { error } = await retryPlan({ id });
    setProblem(error === undefined ? null : explain(error));
  };
  const decide = async (variables: DecideMutationVariables): Promise<void> => {
    const { data, error } = await decideApproval(variables);
    setProblem(error === undefined ? null : explain(error));
    const decided = data?.decideApproval?.approval;
    tell({ kind: 'loaded', questions: decided ? [decided] : [] });
  };

  const failed = team.error ?? conversation.error;
  return (
    <ChatPage
      team={team.data}
      conversations={conversations}
      connection={connection}
      sessionId={sessionId}
      problem={problem ?? (failed === undefined ? null : explain(failed))}
      onShow={setSessionId}
      onSend={send}
      onRetry={(id) => void retry(id)}
      onCancel={(id) => void cancel(id)}
      onDecide={(decision) => void decide(decision)}
      onSignOut={onSignOut}
    />
  );
}
