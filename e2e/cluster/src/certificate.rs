//! Certificates of a cluster: one authority for servers, users and nodes.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// The authority of a cluster; its files lie in one folder.
#[derive(Debug)]
pub(crate) struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, as files.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "mesh-test-ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let certificate = params.self_signed(&key)?;
        fs::write(folder.join("ca.crt"), certificate.pem())?;
        fs::write(folder.join("ca.key"), key.serialize_pem())?;
        // ServiceAccount tokens are signed by a key of their own.
        let account = KeyPair::generate()?;
        fs::write(folder.join("sa.key"), account.serialize_pem())?;
        fs::write(folder.join("sa.pub"), account.public_key_pem())?;
        Ok(Self {
            folder: folder.to_path_buf(),
            issuer: Issuer::new(params, key),
        })
    }

    pub(crate) fn load(folder: &Path) -> Result<Self> {
        let certificate = fs::read_to_string(folder.join("ca.crt"))?;
        let key = KeyPair::from_pem(&fs::read_to_string(folder.join("ca.key"))?)?;
        Ok(Self {
            folder: folder.to_path_buf(),
            issuer: Issuer::from_ca_cert_pem(&certificate, key)?,
        })
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.folder.join("ca.key")
    }

    pub(crate) fn account_key(&self) -> PathBuf {
        self.folder.join("sa.key")
    }

    pub(crate) fn account_public_key(&self) -> PathBuf {
        self.folder.join("sa.pub")
    }

    /// A client certificate.
    pub(crate) fn user(&self, name: &str, group: Option<&str>) -> Result<Pair> {
        self.pair(name, group, &[], ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// A server certificate for names and addresses.
    pub(crate) fn server(&self, name: &str, hosts: &[&str]) -> Result<Pair> {
        self.pair(name, None, hosts, ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn pair(
        &self,
        name: &str,
        group: Option<&str>,
        hosts: &[&str],
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<Pair> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        if let Some(group) = group {
            params
                .distinguished_name
                .push(DnType::OrganizationName, group);
        }
        for host in hosts {
            let name = match host.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(
                    (*host)
                        .try_into()
                        .with_context(|| format!("{host} is no name"))?,
                ),
            };
            params.subject_alt_names.push(name);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let file = name.replace([':', '/'], "-");
        let pair = Pair {
            certificate: self.folder.join(format!("{file}.crt")),
            key: self.folder.join(format!("{file}.key")),
        };
        fs::write(&pair.certificate, certificate.pem())?;
        fs::write(&pair.key, key.serialize_pem())?;
        Ok(pair)
    }

    /// A kubeconfig for a user.
    pub(crate) fn kubeconfig(&self, file: &Path, server: &str, user: &Pair) -> Result<()> {
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "mesh",
            "clusters": [{"name": "mesh", "cluster": {"server": server, "certificate-authority": self.certificate()}}],
            "users": [{"name": "user", "user": {"client-certificate": user.certificate, "client-key": user.key}}],
            "contexts": [{"name": "mesh", "context": {"cluster": "mesh", "user": "user"}}],
        });
        Ok(fs::write(file, config.to_string())?)
    }
}
