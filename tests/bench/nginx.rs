//! nginx as a gateway: one upstream, kept-alive connections both ways, and what every proxy in production tells its
//! backend.
use crate::Plan;
use crate::address::{free_port, listens};
use crate::guard::Guard;
use anyhow::{Context, Result};
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

pub(crate) struct Nginx {
    /// Dropped before the folder it works in.
    _process: Group,
    pub(crate) url: String,
    _guard: Guard,
}

/// A process with all that it started. nginx's workers do not end with a master that was killed.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // Not waited for yet, so the number is still its own, and the group's.
        let Some(id) = self.0.id().and_then(|id| i32::try_from(id).ok()) else { return };
        // SAFETY: sends a signal, to a group that this process made.
        unsafe { libc::killpg(id, libc::SIGKILL) };
    }
}

impl Nginx {
    /// nginx before `backend` (`host:port`), with a worker for each processor as Debian sets it up.
    pub(crate) async fn start(plan: &Plan, backend: &str) -> Result<Self> {
        let guard = Guard::new("bench-nginx");
        let folder = guard.folder().display().to_string();
        let port = free_port()?;
        // 128 idle connections, as many as the gateway keeps to one backend.
        let config = format!(
            "worker_processes auto;\npid {folder}/pid;\nerror_log {folder}/error.log;\ndaemon off;\n\
             events {{ worker_connections 4096; }}\n\
             http {{\n\
               access_log off;\n\
               keepalive_requests 1000000;\n\
               client_body_temp_path {folder}/body;\n\
               proxy_temp_path {folder}/proxy;\n\
               fastcgi_temp_path {folder}/fastcgi;\n\
               uwsgi_temp_path {folder}/uwsgi;\n\
               scgi_temp_path {folder}/scgi;\n\
               upstream backend {{ server {backend}; keepalive 128; keepalive_requests 1000000; }}\n\
               server {{\n\
                 listen 127.0.0.1:{port};\n\
                 location / {{\n\
                   proxy_pass http://backend;\n\
                   proxy_http_version 1.1;\n\
                   proxy_set_header Connection \"\";\n\
                   proxy_set_header Host $http_host;\n\
                   proxy_set_header X-Forwarded-For $remote_addr;\n\
                   proxy_set_header X-Forwarded-Host $http_host;\n\
                   proxy_set_header X-Forwarded-Proto $scheme;\n\
                 }}\n\
               }}\n\
             }}\n"
        );
        let file = guard.folder().join("nginx.conf");
        std::fs::write(&file, config)?;
        let process = Command::new(&plan.programs.nginx)
            .arg("-c")
            .arg(&file)
            .args(["-p", &folder])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map(Group)
            .context("starting nginx")?;
        listens((Ipv4Addr::LOCALHOST, port).into(), Duration::from_secs(30)).await?;
        Ok(Self { _process: process, url: format!("http://127.0.0.1:{port}/"), _guard: guard })
    }
}
