//! A connection to a server.

use std::time::Duration;

use tokio_stream::StreamExt;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status, Streaming};

use crate::MAX_MESSAGE_BYTES;
use crate::v1::document_service_client::DocumentServiceClient;
use crate::v1::engine_service_client::EngineServiceClient;
use crate::v1::generation_service_client::GenerationServiceClient;
use crate::v1::{
    BatchPutDocumentsRequest, BatchPutDocumentsResponse, CountTokensRequest, CountTokensResponse,
    DeleteDocumentRequest, Document, DrainRequest, DrainResponse, GenerateRequest, GenerateResponse,
    GetDocumentRequest, GetLoadRequest, GetLoadResponse, GetModelRequest, GetModelResponse,
    GetServerInfoRequest, GetServerInfoResponse, ListDocumentsRequest, ListDocumentsResponse,
    ListModelsRequest, ListModelsResponse, PutDocumentRequest, PutDocumentResponse, UpdateDocumentRequest,
    WatchKvEventsRequest, WatchKvEventsResponse,
};

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the server is and who asks.
#[derive(Clone, Default)]
pub struct ClientOptions {
    /// Address of the server, for example `http://127.0.0.1:50051`.
    pub url: String,
    /// The caller's API key, for a server that wants one.
    pub api_key: Option<String>,
    /// What is needed for an address with `https`.
    pub tls: Option<ClientTls>,
}

/// What an encrypted connection needs.
#[derive(Debug, Clone)]
pub struct ClientTls {
    /// Certificates in PEM of the authorities, one of which signed the server's.
    pub authority_pem: Vec<u8>,
    /// Who the client is, for a server that asks.
    pub identity: Option<ClientIdentity>,
}

/// A client's certificate and its key.
#[derive(Clone)]
pub struct ClientIdentity {
    /// The certificate with its chain, leaf first, in PEM.
    pub certificate_pem: Vec<u8>,
    /// Its private key in PEM.
    pub key_pem: Vec<u8>,
}

impl std::fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientIdentity(..)")
    }
}

impl ClientTls {
    fn config(self) -> ClientTlsConfig {
        let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(self.authority_pem));
        match self.identity {
            Some(ClientIdentity { certificate_pem, key_pem }) => {
                config.identity(Identity::from_pem(certificate_pem, key_pem))
            }
            None => config,
        }
    }
}

impl std::fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let api_key = self.api_key.as_ref().map(|_| "..");
        f.debug_struct("ClientOptions")
            .field("url", &self.url)
            .field("api_key", &api_key)
            .field("tls", &self.tls)
            .finish()
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The address cannot be used.
    #[error("{url:?} is not the address of a server; write for example http://127.0.0.1:50051")]
    Address {
        /// The address.
        url: String,
        /// What is wrong with it.
        source: tonic::transport::Error,
    },
    /// The key cannot be sent.
    #[error("the API key has a character that a header cannot carry; use printable ASCII")]
    Key,
    /// Certificates were given for an address that does without.
    #[error("{url} is not encrypted although certificates are given; write https, or leave them out")]
    NotEncrypted {
        /// The address.
        url: String,
    },
    /// Nobody says whose signature on the server's certificate is believed.
    #[error("{url} is encrypted; name the authority that signed the server's certificate (--tls-ca FILE)")]
    NoAuthority {
        /// The address.
        url: String,
    },
    /// The certificates or the key cannot be used.
    #[error("the certificates or the key for {url} cannot be used")]
    Tls {
        /// The address.
        url: String,
        /// What is wrong with them.
        source: tonic::transport::Error,
    },
    /// Nobody answered.
    #[error("no server answers at {url}")]
    Connect {
        /// The address.
        url: String,
        /// Why.
        source: tonic::transport::Error,
    },
}

/// Adds the caller's key to every request.
#[derive(Debug, Clone)]
struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

type Transport = InterceptedService<Channel, Bearer>;

/// A client of all services of one server; clones share its connection.
#[derive(Debug, Clone)]
pub struct Client {
    generation: GenerationServiceClient<Transport>,
    documents: DocumentServiceClient<Transport>,
    engine: EngineServiceClient<Transport>,
}

impl Client {
    /// Connects to the server of `options`.
    ///
    /// # Errors
    /// [`ClientError`] for an address or key that cannot be used, or when nobody answers.
    pub async fn connect(options: ClientOptions) -> Result<Client, ClientError> {
        let ClientOptions { url, api_key, tls } = options;
        let bearer = Bearer(api_key.map(|key| bearer_value(&key)).transpose()?);
        let endpoint = Endpoint::from_shared(url.clone())
            .map_err(|source| ClientError::Address { url: url.clone(), source })?
            .connect_timeout(CONNECT_TIMEOUT);
        let endpoint = encrypt(endpoint, &url, tls)?;
        let channel = endpoint.connect().await.map_err(|source| ClientError::Connect { url, source })?;
        let transport = InterceptedService::new(channel, bearer);
        let generation = GenerationServiceClient::new(transport.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let documents = DocumentServiceClient::new(transport.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Ok(Client { generation, documents, engine: EngineServiceClient::new(transport) })
    }

    /// Starts `request`; dropping the stream cancels it. With a `timeout` the server ends it after that time.
    ///
    /// # Errors
    /// The server's status if it refused the request.
    pub async fn generate(
        &mut self,
        request: GenerateRequest,
        timeout: Option<Duration>,
    ) -> Result<Streaming<GenerateResponse>, Status> {
        let mut request = Request::new(request);
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        Ok(self.generation.generate(request).await?.into_inner())
    }

    /// What a prompt would take and find, without running it.
    ///
    /// # Errors
    /// The server's status.
    pub async fn count_tokens(&mut self, request: CountTokensRequest) -> Result<CountTokensResponse, Status> {
        Ok(self.generation.count_tokens(request).await?.into_inner())
    }

    /// Registers a document.
    ///
    /// # Errors
    /// The server's status.
    pub async fn put_document(&mut self, request: PutDocumentRequest) -> Result<PutDocumentResponse, Status> {
        Ok(self.documents.put_document(request).await?.into_inner())
    }

    /// Registers many documents; the answers come in the order of `requests`.
    ///
    /// # Errors
    /// The server's status if it refused the stream; what becomes of each document is in its answer.
    pub async fn batch_put_documents(
        &mut self,
        requests: impl tokio_stream::Stream<Item = PutDocumentRequest> + Send + 'static,
    ) -> Result<Streaming<BatchPutDocumentsResponse>, Status> {
        let requests = requests.map(|request| BatchPutDocumentsRequest { request: Some(request) });
        Ok(self.documents.batch_put_documents(requests).await?.into_inner())
    }

    /// The document `name`.
    ///
    /// # Errors
    /// The server's status, `NOT_FOUND` if the caller's tenant has no such document.
    pub async fn get_document(&mut self, name: &str) -> Result<Document, Status> {
        let request = GetDocumentRequest { name: name.to_owned() };
        self.documents.get_document(request).await?.into_inner().document.ok_or_else(no_document)
    }

    /// A page of documents.
    ///
    /// # Errors
    /// The server's status.
    pub async fn list_documents(
        &mut self,
        request: ListDocumentsRequest,
    ) -> Result<ListDocumentsResponse, Status> {
        Ok(self.documents.list_documents(request).await?.into_inner())
    }

    /// Changes what may change of a document.
    ///
    /// # Errors
    /// The server's status.
    pub async fn update_document(&mut self, request: UpdateDocumentRequest) -> Result<Document, Status> {
        self.documents.update_document(request).await?.into_inner().document.ok_or_else(no_document)
    }

    /// Forgets a document.
    ///
    /// # Errors
    /// The server's status.
    pub async fn delete_document(&mut self, request: DeleteDocumentRequest) -> Result<(), Status> {
        self.documents.delete_document(request).await.map(|_| ())
    }

    /// The models that requests may name.
    ///
    /// # Errors
    /// The server's status.
    pub async fn models(&mut self) -> Result<ListModelsResponse, Status> {
        Ok(self.engine.list_models(ListModelsRequest {}).await?.into_inner())
    }

    /// The model `name`, `models/{model}`.
    ///
    /// # Errors
    /// The server's status.
    pub async fn model(&mut self, name: &str) -> Result<GetModelResponse, Status> {
        Ok(self.engine.get_model(GetModelRequest { name: name.to_owned() }).await?.into_inner())
    }

    /// Which of the caller's documents are resident, now and from now on.
    ///
    /// # Errors
    /// The server's status.
    pub async fn watch_kv_events(&mut self) -> Result<Streaming<WatchKvEventsResponse>, Status> {
        Ok(self.engine.watch_kv_events(WatchKvEventsRequest {}).await?.into_inner())
    }

    /// Asks the server to finish what it has and end.
    ///
    /// # Errors
    /// The server's status, `PERMISSION_DENIED` unless the server was started to allow it.
    pub async fn drain(&mut self) -> Result<DrainResponse, Status> {
        Ok(self.engine.drain(DrainRequest {}).await?.into_inner())
    }

    /// Sizes and identity of the server.
    ///
    /// # Errors
    /// The server's status.
    pub async fn server_info(&mut self) -> Result<GetServerInfoResponse, Status> {
        Ok(self.engine.get_server_info(GetServerInfoRequest {}).await?.into_inner())
    }

    /// How busy the server is.
    ///
    /// # Errors
    /// The server's status.
    pub async fn load(&mut self) -> Result<GetLoadResponse, Status> {
        Ok(self.engine.get_load(GetLoadRequest {}).await?.into_inner())
    }
}

fn encrypt(endpoint: Endpoint, url: &str, tls: Option<ClientTls>) -> Result<Endpoint, ClientError> {
    let is_encrypted = endpoint.uri().scheme_str() == Some("https");
    match (is_encrypted, tls) {
        (false, None) => Ok(endpoint),
        (true, Some(tls)) => {
            let endpoint = endpoint.tls_config(tls.config());
            endpoint.map_err(|source| ClientError::Tls { url: url.to_owned(), source })
        }
        (true, None) => Err(ClientError::NoAuthority { url: url.to_owned() }),
        (false, Some(_)) => Err(ClientError::NotEncrypted { url: url.to_owned() }),
    }
}

fn no_document() -> Status {
    Status::internal("the server answered without a document")
}

fn bearer_value(key: &str) -> Result<MetadataValue<Ascii>, ClientError> {
    let mut value: MetadataValue<Ascii> = format!("Bearer {key}").parse().map_err(|_| ClientError::Key)?;
    value.set_sensitive(true);
    Ok(value)
}
