import { ApolloProvider } from '@apollo/client/react';
import { StrictMode, useMemo, useState } from 'react';
import { createRoot } from 'react-dom/client';
import { type Account, SignIn } from '../react/sign-in.tsx';
import '../react/style.css';
import { Chat } from './chat.tsx';
import { createClient } from './client.ts';

function App() {
  const [account, setAccount] = useState<Account | null>(null);
  const client = useMemo(() => (account === null ? null : createClient(account)), [account]);
  return client === null ? (
    <SignIn client="Apollo Client" onSignIn={setAccount} />
  ) : (
    <ApolloProvider client={client}>
      <Chat onSignOut={() => setAccount(null)} />
    </ApolloProvider>
  );
}

const root = document.getElementById('root');
if (root !== null) {
  createRoot(root).render(
    <StrictMode>
      <App />
    </StrictMode>,
  );
}
